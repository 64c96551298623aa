//! The files of an evaluation, under the names of lm-eval.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Map, Value};

use super::super::console;
use super::super::failure::Failure;
use crate::eval::{Sample, TaskScores, sanitized};
use crate::output::commit::write_file_atomically;

/// Where the files of a run go.
pub(super) struct Saved {
    results: PathBuf,
    folder: PathBuf,
    /// In the names of its files.
    pub(super) date: String,
}

impl Saved {
    /// Below `path`, or at `path` if it is a `.json` file, which must not exist unless it may be replaced. Creates the folder.
    ///
    /// # Errors
    /// If the file exists or the folder cannot be created.
    pub(super) fn new(path: &Path, model: &str, force: bool, start: SystemTime) -> Result<Self, Failure> {
        let date = humantime::format_rfc3339_micros(start).to_string();
        let date = date.trim_end_matches('Z').replace(':', "-");
        let is_file = path.extension().is_some_and(|ending| ending == "json");
        let (folder, results) = match is_file {
            true => (path.parent().unwrap_or(Path::new("")).to_owned(), path.to_owned()),
            false => {
                let folder = path.join(sanitized(model));
                (folder.clone(), folder.join(format!("results_{date}.json")))
            }
        };
        if results.exists() && !force {
            return Err(Failure::invalid(format_args!("{results:?} exists (--force replaces it)")));
        }
        if !folder.as_os_str().is_empty() {
            fs::create_dir_all(&folder).map_err(Failure::writing(&folder))?;
        }
        Ok(Self { results, folder, date })
    }

    /// The log of the answers of a model, which is kept until the run is finished.
    pub(super) fn log(&self, fingerprint: &str) -> PathBuf {
        self.folder.join(format!("answers_{fingerprint}.jsonl"))
    }

    /// Writes the results and, if they are given, the samples of each task.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub(super) fn write(&self, record: &Map<String, Value>, samples: Option<&[TaskScores<'_>]>) -> Result<(), Failure> {
        let write = |path: &Path, text: &str| -> Result<(), Failure> {
            write_file_atomically(path, text.as_bytes())?;
            console::tell(format_args!("wrote {}", path.display()));
            Ok(())
        };
        for scores in samples.into_iter().flatten() {
            let lines: String = Sample::all(scores).map(|sample| format!("{}\n", sample.to_json())).collect();
            let name = format!("samples_{}_{}.jsonl", scores.task.chosen.task.name, self.date);
            write(&self.folder.join(name), &lines)?;
        }
        write(&self.results, &format!("{:#}\n", Value::Object(record.clone())))
    }
}
