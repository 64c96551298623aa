//! The scores of single items, from the logs of samples of `deepwide eval` or of lm-eval.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{ErrorKind, FileError, InFile};

/// A fault of a log of samples.
pub type SamplesError = InFile<SampleFault>;

/// Faults of a log of samples.
#[derive(Debug, thiserror::Error)]
pub enum SampleFault {
    /// The file cannot be read.
    #[error(transparent)]
    File(crate::error::FileFault),
    /// A directory has no logs.
    #[error("holds no samples_TASK_DATE.jsonl, expected some: evaluate with --log_samples")]
    NoSamples,
    /// A directory has the logs of several models.
    #[error("holds the samples of {count} models, expected those of one, such as {}", .one.display())]
    SeveralModels {
        /// Directories with logs.
        count: usize,
        /// One of them.
        one: PathBuf,
    },
    /// A results file names no logs, and there are those of several runs beside it.
    #[error(
        "has no date of samples, expected results_DATE.json or a file of deepwide eval --log_samples: several runs are beside it"
    )]
    UnknownDate,
    /// A line is no sample.
    #[error("line {line} is not a sample of lm-eval: {reason}")]
    BadLine {
        /// The line, from 1.
        line: usize,
        /// The reason.
        reason: String,
    },
}

impl SamplesError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match &self.fault {
            SampleFault::File(fault) => fault.kind(),
            SampleFault::NoSamples => ErrorKind::NotFound,
            SampleFault::SeveralModels { .. } | SampleFault::UnknownDate | SampleFault::BadLine { .. } => {
                ErrorKind::Invalid
            }
        }
    }
}

/// The scores of the items of a task.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ItemScores {
    /// By metric and filter (`acc,none`), by the item's index: its hash and its score.
    pub metrics: BTreeMap<String, BTreeMap<u64, (String, f64)>>,
    /// The log that they are from.
    pub log: PathBuf,
    /// The hash of the prompt of each item.
    pub prompts: BTreeMap<u64, String>,
}

/// The scores of each task in a log of samples, in the logs of a results file, which have its date, or in the newest logs of the
/// directory of one model.
///
/// # Errors
/// [`SamplesError`].
pub fn read_samples(path: &Path) -> Result<BTreeMap<String, ItemScores>, SamplesError> {
    let metadata = fs::metadata(path).map_err(|error| InFile::new(path, SampleFault::File(error.into())))?;
    if metadata.is_file() && path.extension().is_some_and(|ending| ending == "jsonl") {
        let task = task_and_date(path).map_or_else(|| "samples".to_owned(), |(task, _)| task);
        return Ok([(task, read(path)?)].into());
    }
    let logs = match metadata.is_dir() {
        true => newest_logs(path)?,
        false => {
            let mut logs = logs(path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new(".")))?;
            match samples_date(path)? {
                Some(date) => logs.retain(|(_, found, _)| *found == date),
                None if logs.iter().any(|(_, date, _)| *date != logs[0].1) => {
                    return Err(InFile::new(path, SampleFault::UnknownDate));
                }
                None => {}
            }
            newest(logs)
        }
    };
    if logs.is_empty() {
        return Err(InFile::new(path, SampleFault::NoSamples));
    }
    logs.into_iter().map(|(task, (_, file))| Ok((task, read(&file)?))).collect()
}

/// The date of the logs of a results file: in its name (`results_DATE.json`, lm-eval's `NAME_DATE.json`), or else in the file.
fn samples_date(path: &Path) -> Result<Option<String>, SamplesError> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let is_date =
        |text: &str| text.len() >= 19 && text.as_bytes()[..4].iter().all(u8::is_ascii_digit) && text.contains('T');
    if let Some((_, date)) = name.rsplit_once('_').filter(|(_, date)| is_date(date)) {
        return Ok(Some(date.to_owned()));
    }
    let bytes = fs::read(path).map_err(|error| InFile::new(path, SampleFault::File(error.into())))?;
    let results: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    Ok(results["deepwide"]["samples_date"].as_str().map(str::to_owned))
}

/// The newest log of each task in a directory, or else in the only one of its directories that has logs.
fn newest_logs(directory: &Path) -> Result<BTreeMap<String, (String, PathBuf)>, SamplesError> {
    let own = logs(directory)?;
    if !own.is_empty() {
        return Ok(newest(own));
    }
    let mut models = Vec::new();
    for path in entries(directory)?.into_iter().filter(|path| path.is_dir()) {
        let found = logs(&path)?;
        models.extend((!found.is_empty()).then_some((path, found)));
    }
    match models.len() {
        0 | 1 => Ok(newest(models.pop().map(|(_, logs)| logs).unwrap_or_default())),
        count => Err(InFile::new(directory, SampleFault::SeveralModels { count, one: models.swap_remove(0).0 })),
    }
}

fn newest(logs: Vec<(String, String, PathBuf)>) -> BTreeMap<String, (String, PathBuf)> {
    let mut newest: BTreeMap<String, (String, PathBuf)> = BTreeMap::new();
    for (task, date, path) in logs {
        if newest.get(&task).is_none_or(|(known, _)| *known < date) {
            newest.insert(task, (date, path));
        }
    }
    newest
}

/// The logs of a directory: task, date, file.
fn logs(directory: &Path) -> Result<Vec<(String, String, PathBuf)>, SamplesError> {
    let log = |path: PathBuf| task_and_date(&path).map(|(task, date)| (task, date, path));
    Ok(entries(directory)?.into_iter().filter_map(log).collect())
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, SamplesError> {
    let failed = |error| InFile::new(directory, SampleFault::File(FileError::io(directory)(error).fault));
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        paths.push(entry.map_err(failed)?.path());
    }
    paths.sort();
    Ok(paths)
}

/// `samples_TASK_DATE.jsonl`; the date has no underscore.
fn task_and_date(path: &Path) -> Option<(String, String)> {
    let name = path.file_name()?.to_str()?.strip_prefix("samples_")?.strip_suffix(".jsonl")?;
    let (task, date) = name.rsplit_once('_')?;
    Some((task.to_owned(), date.to_owned()))
}

/// Parses a line. `NaN` and infinities, which Python writes and JSON lacks, become null.
fn parsed(line: &str) -> serde_json::Result<Value> {
    serde_json::from_str(line).or_else(|error| {
        let finite = ["-Infinity", "Infinity", "NaN"]
            .iter()
            .fold(line.to_owned(), |line, number| line.replace(&format!(": {number}"), ": null"));
        serde_json::from_str(&finite).map_err(|_| error)
    })
}

fn read(path: &Path) -> Result<ItemScores, SamplesError> {
    let failed = |error: std::io::Error| InFile::new(path, SampleFault::File(error.into()));
    let mut scores = ItemScores { log: path.to_owned(), ..ItemScores::default() };
    for (index, line) in BufReader::new(File::open(path).map_err(failed)?).lines().enumerate() {
        let bad = |reason: String| InFile::new(path, SampleFault::BadLine { line: index + 1, reason });
        let sample = parsed(&line.map_err(failed)?).map_err(|error| bad(error.to_string()))?;
        let missing = |key: &str| bad(format!("found no {key}"));
        let doc_id = sample["doc_id"].as_u64().ok_or_else(|| missing("doc_id"))?;
        let hash = sample["doc_hash"].as_str().ok_or_else(|| missing("doc_hash"))?;
        if let Some(prompt) = sample["prompt_hash"].as_str() {
            scores.prompts.insert(doc_id, prompt.to_owned());
        }
        let filter = sample["filter"].as_str().unwrap_or("none");
        for metric in sample["metrics"].as_array().ok_or_else(|| missing("metrics"))? {
            let metric = metric.as_str().unwrap_or_default();
            let value = sample.get(metric).ok_or_else(|| missing(metric))?;
            let value = value.as_f64().or_else(|| value.as_bool().map(|is_right| f64::from(u8::from(is_right))));
            // Some tasks have lists, which nothing here compares; a score that is not finite has no pair.
            let Some(value) = value else { continue };
            let items = scores.metrics.entry(format!("{metric},{filter}")).or_default();
            items.insert(doc_id, (hash.to_owned(), value));
        }
    }
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"{"doc_id": 0, "doc_hash": "h", "filter": "none", "metrics": ["acc", "list"], "list": [1]"#;

    #[test]
    fn a_results_file_has_the_samples_of_its_run() {
        let folder = tempfile::tempdir().unwrap();
        let dates = ["2026-01-01T00-00-00.000001", "2026-01-02T00-00-00.000001"];
        for (date, acc) in dates.iter().zip(["0.25", "NaN"]) {
            let line = format!("{SAMPLE}, \"acc\": {acc}}}\n");
            fs::write(folder.path().join(format!("samples_t_{date}.jsonl")), line).unwrap();
        }
        let of = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            read_samples(&path).map(|tasks| tasks["t"].metrics.get("acc,none").map(|items| items[&0].1))
        };
        let named = |date: &str| of(&format!("results_{date}.json"), "{}").unwrap();
        assert_eq!((named(dates[0]), named(dates[1])), (Some(0.25), None), "NaN has no pair, and a list is no score");
        assert_eq!(of(&format!("a_{}.json", dates[0]), "{}").unwrap(), Some(0.25));
        let recorded = format!(r#"{{"deepwide": {{"samples_date": "{}"}}}}"#, dates[0]);
        assert_eq!(of("a_run.json", &recorded).unwrap(), Some(0.25));
        assert!(matches!(of("b.json", "{}").unwrap_err().fault, SampleFault::UnknownDate));
        let newest = folder.path().join(format!("samples_t_{}.jsonl", dates[1]));
        assert_eq!(read_samples(folder.path()).unwrap()["t"].log, newest);
        fs::remove_file(folder.path().join(format!("samples_t_{}.jsonl", dates[1]))).unwrap();
        assert_eq!(of("b.json", "{}").unwrap(), Some(0.25), "the only ones");
    }
}
