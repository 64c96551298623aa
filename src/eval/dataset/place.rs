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
    /// Checks that the splits of some tasks are there, before any is read. Those of the hub are downloaded, all of a data set
    /// from one commit: if part of it is cached and the hub has changed since, that part is downloaded again.
    ///
    /// # Errors
    /// [`EvalError::NoData`] or, of several tasks, [`EvalError::NoDataOfTasks`]; [`EvalError::AmbiguousData`],
    /// [`EvalError::Hub`].
    pub fn gather<'a>(
        &self,
        splits: impl Iterator<Item = (&'a str, &'a DataSet, Split)> + Clone,
    ) -> Result<(), EvalError> {
        let mut commits = BTreeMap::new();
        loop {
            let (mut absent, mut is_mixed) = (Vec::new(), false);
            for (task, data_set, split) in splits.clone() {
                match self.commit(data_set, split, task) {
                    Ok(Some(commit)) => {
                        let before = commits.insert(data_set.path, commit.clone());
                        is_mixed |= before.is_some_and(|before| before != commit);
                    }
                    Ok(None) => {}
                    Err(error) if error.is_absence() => absent.push((task, error)),
                    Err(error) => return Err(error),
                }
            }
            if !absent.is_empty() {
                return Err(no_data(absent));
            }
            if !is_mixed {
                return Ok(());
            }
        }
    }

    /// The commit of a split that is on the hub; of one in a directory nothing, but it is there.
    fn commit(&self, data_set: &DataSet, split: Split, task: &str) -> Result<Option<String>, EvalError> {
        match self {
            Self::Directory(_) => self.files(data_set, split, task).map(|_| None),
            Self::Hub(files) => {
                let found = files(data_set, split).map_err(EvalError::of_hub(task))?;
                Ok(Some(found.commit))
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
            Self::Hub(files) => {
                return Ok(on_hub(data_set, files(data_set, split).map_err(EvalError::of_hub(task))?));
            }
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

/// The error of tasks that lack data, at least one.
fn no_data(absent: Vec<(&str, EvalError)>) -> EvalError {
    let mut tasks: Vec<String> = absent.iter().map(|(task, _)| (*task).to_owned()).collect();
    tasks.dedup();
    let mut errors = absent.into_iter().map(|(_, error)| error);
    let first = errors.next().expect("at least one");
    if tasks.len() > 1 { EvalError::NoDataOfTasks { tasks, first: Box::new(first) } } else { first }
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
        let splits = [("task", &set, Split::Train), ("task", &set, Split::Validation)];
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

    #[test]
    fn all_tasks_without_data_are_counted_unless_the_hub_itself_fails() {
        let set = DataSet { path: "org/set", config: None, folders: &[], shares_folder: false, suffix: None };
        let splits = ["a", "b", "c", "d"]
            .into_iter()
            .flat_map(|task| [Split::Train, Split::Test].map(|split| (task, &set, split)));
        let asked = RefCell::new(0);
        let message = |fault: fn() -> HubError| {
            *asked.borrow_mut() = 0;
            let files = |_: &DataSet, _: Split| -> Result<DataSetFiles, HubError> {
                *asked.borrow_mut() += 1;
                Err(fault())
            };
            DataPlace::Hub(&files).gather(splits.clone()).unwrap_err().to_string()
        };
        let offline = message(|| HubError::Offline("set is not in the cache".to_owned()));
        assert!(
            offline.starts_with("4 tasks lack data: \"a\", \"b\", \"c\", …; a: set is not in the cache"),
            "{offline}"
        );
        assert_eq!(*asked.borrow(), 8);
        let unknown = message(|| HubError::NoSuchHost("hub".to_owned()));
        assert!(unknown.starts_with("a: cannot resolve host \"hub\""), "{unknown}");
        assert_eq!(*asked.borrow(), 1);
    }
}
