//! Where data sets come from.

use std::collections::BTreeMap;
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
    /// Downloads these splits, all of a data set from one commit. If part of it is cached and the hub has changed since, that part
    /// is downloaded again.
    ///
    /// # Errors
    /// [`EvalError::Hub`].
    pub fn gather<'a>(&self, splits: impl Iterator<Item = (&'a DataSet, Split)> + Clone) -> Result<(), EvalError> {
        let Self::Hub(files) = self else { return Ok(()) };
        let mut commits = BTreeMap::new();
        loop {
            let mut is_mixed = false;
            for (data_set, split) in splits.clone() {
                let commit = files(data_set, split)?.commit;
                is_mixed |= commits.insert(data_set.path, commit.clone()).is_some_and(|before| before != commit);
            }
            if !is_mixed {
                return Ok(());
            }
        }
    }

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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn all_splits_of_a_data_set_come_from_one_commit() {
        let set = DataSet { path: "org/set", config: None, folders: &[], shares_folder: false, suffix: None };
        let splits = [(&set, Split::Train), (&set, Split::Validation)];
        // The cache has the training split at commit 1. The download of the other one finds that the hub is at commit 2.
        let newest = RefCell::new(1);
        let asked = RefCell::new(Vec::new());
        let files = |_: &DataSet, split: Split| {
            let mut newest = newest.borrow_mut();
            *newest = if split == Split::Validation { 2 } else { *newest };
            asked.borrow_mut().push((split, *newest));
            Ok(DataSetFiles { commit: newest.to_string(), paths: Vec::new() })
        };
        DataPlace::Hub(&files).gather(splits.into_iter()).unwrap();
        let (train, validation) = (Split::Train, Split::Validation);
        assert_eq!(asked.into_inner(), [(train, 1), (validation, 2), (train, 2), (validation, 2)]);
    }
}
