//! Where data sets come from.

use std::path::{Path, PathBuf};

use super::{DataSet, Split};
use crate::eval::error::EvalError;
use crate::hub::{DataSetFiles, HubError};

/// The files of a split on the hub, downloaded.
type OnHub<'a> = dyn Fn(&DataSet, Split) -> Result<DataSetFiles, HubError> + 'a;

/// Where the files of data sets are.
#[derive(Clone, Copy)]
pub enum DataPlace<'a> {
    /// A directory of one data set or several; see [`DataSet::files`].
    Directory(&'a Path),
    /// The hub.
    Hub(&'a OnHub<'a>),
}

/// A file of a split.
pub(super) struct PlacedFile {
    pub path: PathBuf,
    /// Its path for records: below the directory, or `org/name@commit/…` on the hub.
    pub shown: PathBuf,
}

impl DataPlace<'_> {
    /// The files of a split for a task, at least one.
    ///
    /// # Errors
    /// [`EvalError::NoData`], [`EvalError::AmbiguousData`], [`EvalError::Hub`].
    pub(super) fn files(&self, data_set: &DataSet, split: Split, task: &str) -> Result<Vec<PlacedFile>, EvalError> {
        let directory = match self {
            Self::Directory(directory) => directory,
            Self::Hub(files) => return Ok(on_hub(data_set, files(data_set, split)?)),
        };
        let (task, split_name) = (task.to_owned(), split.name());
        let paths = match data_set.files(directory, split) {
            Ok(paths) => paths,
            Err(found) => return Err(EvalError::AmbiguousData { task, split: split_name, found }),
        };
        if paths.is_empty() {
            let config = data_set.config.as_ref().map(|config| format!(" ({config})")).unwrap_or_default();
            return Err(EvalError::NoData {
                task,
                split: split_name,
                data_set: format!("{}{config}", data_set.path),
                directory: (*directory).to_owned(),
                expected: data_set.expected(split),
            });
        }
        let placed = |path: PathBuf| {
            let shown = path.strip_prefix(directory).unwrap_or(&path).to_owned();
            PlacedFile { path, shown }
        };
        Ok(paths.into_iter().map(placed).collect())
    }
}

fn on_hub(data_set: &DataSet, files: DataSetFiles) -> Vec<PlacedFile> {
    let DataSetFiles { commit, paths } = files;
    let root = PathBuf::from(format!("{}@{commit}", data_set.path));
    let placed = |path: PathBuf| {
        let below = path.iter().skip_while(|part| **part != *commit).skip(1);
        PlacedFile { shown: root.join(below.collect::<PathBuf>()), path }
    };
    paths.into_iter().map(placed).collect()
}
