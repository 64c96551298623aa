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
    /// A line is no sample.
    #[error("line {line} is no sample of lm-eval: {reason}")]
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
            SampleFault::SeveralModels { .. } | SampleFault::BadLine { .. } => ErrorKind::Invalid,
        }
    }
}

/// The scores of the items of a task.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ItemScores {
    /// By metric and filter (`acc,none`), by the item's index: its hash and its score.
    pub metrics: BTreeMap<String, BTreeMap<u64, (String, f64)>>,
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
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let date = name.strip_prefix("results_").map(str::to_owned);
            let mut logs = logs(path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new(".")))?;
            logs.retain(|(_, found, _)| date.as_ref().is_none_or(|date| date == found));
            newest(logs)
        }
    };
    if logs.is_empty() {
        return Err(InFile::new(path, SampleFault::NoSamples));
    }
    logs.into_iter().map(|(task, (_, file))| Ok((task, read(&file)?))).collect()
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

fn read(path: &Path) -> Result<ItemScores, SamplesError> {
    let failed = |error: std::io::Error| InFile::new(path, SampleFault::File(error.into()));
    let mut scores = ItemScores::default();
    for (index, line) in BufReader::new(File::open(path).map_err(failed)?).lines().enumerate() {
        let bad = |reason: String| InFile::new(path, SampleFault::BadLine { line: index + 1, reason });
        let sample: Value = serde_json::from_str(&line.map_err(failed)?).map_err(|error| bad(error.to_string()))?;
        let missing = |key: &str| bad(format!("found no {key}"));
        let doc_id = sample["doc_id"].as_u64().ok_or_else(|| missing("doc_id"))?;
        let hash = sample["doc_hash"].as_str().ok_or_else(|| missing("doc_hash"))?;
        let filter = sample["filter"].as_str().unwrap_or("none");
        for metric in sample["metrics"].as_array().ok_or_else(|| missing("metrics"))? {
            let metric = metric.as_str().unwrap_or_default();
            let value = &sample[metric];
            let value = value.as_f64().or_else(|| value.as_bool().map(|is_right| f64::from(u8::from(is_right))));
            let value = value.ok_or_else(|| missing(metric))?;
            let items = scores.metrics.entry(format!("{metric},{filter}")).or_default();
            items.insert(doc_id, (hash.to_owned(), value));
        }
    }
    Ok(scores)
}
