//! The rows of a split, with the checksums of its files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{DataSet, Split};
use crate::data::source::Rows;
use crate::error::FileError;
use crate::eval::error::EvalError;
use crate::output::read::hexadecimal;

/// A file of data that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DataFile {
    /// Its path below the directory of data.
    pub path: PathBuf,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
    /// Its rows.
    pub num_rows: usize,
}

/// The rows of a split.
#[derive(Debug, Clone)]
pub struct SplitRows {
    /// Fields of each row, in the order of the files.
    pub rows: Vec<Map<String, Value>>,
    /// The files.
    pub files: Vec<DataFile>,
    /// Path of the first file.
    pub path: PathBuf,
}

impl SplitRows {
    /// Reads a split of a data set for a task.
    ///
    /// # Errors
    /// [`EvalError::NoData`], [`EvalError::AmbiguousData`], [`EvalError::Source`], [`EvalError::File`],
    /// [`EvalError::NoItems`].
    pub fn read(directory: &Path, data_set: &DataSet, split: Split, task: &str) -> Result<Self, EvalError> {
        let (task, split_name) = (task.to_owned(), split.name());
        let paths = match data_set.files(directory, split) {
            Ok(paths) => paths,
            Err(found) => return Err(EvalError::AmbiguousData { task, split: split_name, found }),
        };
        let Some(path) = paths.first().cloned() else {
            let config = data_set.config.as_ref().map(|config| format!(" ({config})")).unwrap_or_default();
            return Err(EvalError::NoData {
                task,
                split: split_name,
                data_set: format!("{}{config}", data_set.path),
                directory: directory.to_owned(),
                expected: data_set.expected(split),
            });
        };
        let (mut rows, mut files) = (Vec::new(), Vec::new());
        for path in paths {
            let before = rows.len();
            for row in Rows::open(&path)? {
                rows.push(row?.fields);
            }
            let sha256 = sha256_of(&path).map_err(FileError::io(&path))?;
            let relative = path.strip_prefix(directory).unwrap_or(&path).to_owned();
            files.push(DataFile { path: relative, sha256, num_rows: rows.len() - before });
        }
        if rows.is_empty() {
            return Err(EvalError::NoItems { task, split: split_name });
        }
        Ok(Self { rows, files, path })
    }
}

fn sha256_of(path: &Path) -> io::Result<String> {
    Ok(hexadecimal(&Sha256::digest(fs::read(path)?)))
}
