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
    /// A line is no sample.
    #[error("line {line} is no sample of lm-eval: {reason}")]
    BadLine {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

impl SamplesError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match &self.fault {
            SampleFault::File(fault) => fault.kind(),
            SampleFault::NoSamples => ErrorKind::NotFound,
            SampleFault::BadLine { .. } => ErrorKind::Invalid,
        }
    }
}

/// The scores of the items of a task.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ItemScores {
    /// By metric and filter (`acc,none`), by the item's index: its hash and its score.
    pub metrics: BTreeMap<String, BTreeMap<u64, (String, f64)>>,
}

/// The scores of each task in a log of samples, or in the newest logs of a directory; a results file stands for its directory.
///
/// # Errors
/// [`SamplesError`].
pub fn read_samples(path: &Path) -> Result<BTreeMap<String, ItemScores>, SamplesError> {
    let metadata = fs::metadata(path).map_err(|error| InFile::new(path, SampleFault::File(error.into())))?;
    if metadata.is_file() && path.extension().is_some_and(|ending| ending == "jsonl") {
        let task = task_and_date(path).map_or_else(|| "samples".to_owned(), |(task, _)| task);
        return Ok([(task, read(path)?)].into());
    }
    let directory = if metadata.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    let mut newest: BTreeMap<String, (String, PathBuf)> = BTreeMap::new();
    gather(directory, &mut newest)?;
    if newest.is_empty() {
        return Err(InFile::new(directory, SampleFault::NoSamples));
    }
    newest.into_iter().map(|(task, (_, file))| Ok((task, read(&file)?))).collect()
}

/// Finds the newest log of each task below a directory.
fn gather(directory: &Path, newest: &mut BTreeMap<String, (String, PathBuf)>) -> Result<(), SamplesError> {
    let failed = |error| InFile::new(directory, SampleFault::File(FileError::io(directory)(error).fault));
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            gather(&path, newest)?;
        } else if let Some((task, date)) = task_and_date(&path)
            && newest.get(&task).is_none_or(|(known, _)| *known < date)
        {
            newest.insert(task, (date, path));
        }
    }
    Ok(())
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
