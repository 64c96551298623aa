//! The rows of a split, with the checksums of its files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::place::PlacedFile;
use super::{DataPlace, DataSet, Split};
use crate::data::source::Rows;
use crate::error::FileError;
use crate::eval::error::EvalError;
use crate::output::read::hexadecimal;

/// A file of data that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DataFile {
    /// Its path below the directory of data, or `org/name@commit/…` on the hub.
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
    /// [`EvalError::NoData`], [`EvalError::AmbiguousData`], [`EvalError::Hub`], [`EvalError::Source`], [`EvalError::File`],
    /// [`EvalError::NoItems`].
    pub fn read(place: &DataPlace<'_>, data_set: &DataSet, split: Split, task: &str) -> Result<Self, EvalError> {
        let placed = place.files(data_set, split, task)?;
        let first = placed[0].path.clone();
        let (mut rows, mut files) = (Vec::new(), Vec::new());
        for PlacedFile { path, shown } in placed {
            let before = rows.len();
            for row in Rows::open(&path)? {
                rows.push(row?.fields);
            }
            let sha256 = sha256_of(&path).map_err(FileError::io(&path))?;
            files.push(DataFile { path: shown, sha256, num_rows: rows.len() - before });
        }
        if rows.is_empty() {
            return Err(EvalError::NoItems { task: task.to_owned(), split: split.name() });
        }
        Ok(Self { rows, files, path: first })
    }
}

fn sha256_of(path: &Path) -> io::Result<String> {
    Ok(hexadecimal(&Sha256::digest(fs::read(path)?)))
}
