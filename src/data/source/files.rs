//! Files of data from paths of files, directories and patterns.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::error::{SourceError, SourceFault};
use super::format::format_of;
use crate::error::InFile;

/// The files of data that `arguments` name, in their order.
///
/// A directory stands for the files below it with an extension that is read, sorted by path; hidden ones are left out, and
/// symbolic links to directories are not followed. What does not exist is a pattern with `*`, `**`, `?` and `[a-z]`, and stands
/// for the files that match it, sorted by path.
///
/// # Errors
/// [`SourceFault::File`] if a path does not exist; [`SourceFault::NoMatch`], [`SourceFault::BadPattern`];
/// [`SourceFault::NoData`] for a directory without such files; [`SourceFault::UnknownFormat`] for a file, named or matched;
/// [`SourceFault::Repeated`] for a file that is named twice.
pub fn data_files(arguments: &[PathBuf]) -> Result<Vec<PathBuf>, SourceError> {
    let mut files = Vec::new();
    for argument in arguments {
        let found = files_of(argument).map_err(InFile::at(argument))?;
        found.iter().try_for_each(|file| format_of(file).map(drop).map_err(InFile::at(file)))?;
        files.extend(found);
    }
    let mut known = HashSet::new();
    let identity = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    match files.iter().find(|file| !known.insert(identity(file))) {
        Some(repeated) => Err(InFile::new(repeated, SourceFault::Repeated)),
        None => Ok(files),
    }
}

fn files_of(argument: &Path) -> Result<Vec<PathBuf>, SourceFault> {
    match std::fs::metadata(argument) {
        Ok(found) if !found.is_dir() => Ok(vec![argument.to_owned()]),
        Ok(_) => {
            let mut files = Vec::new();
            gather(argument, &mut files)?;
            files.sort();
            if files.is_empty() { Err(SourceFault::NoData) } else { Ok(files) }
        }
        Err(error) => match argument.to_str().filter(|text| text.contains(['*', '?', '['])) {
            Some(pattern) => matches(pattern),
            None => Err(error.into()),
        },
    }
}

fn gather(directory: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if entry.file_type()?.is_dir() {
            gather(&path, files)?;
        } else if format_of(&path).is_ok() && path.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

fn matches(pattern: &str) -> Result<Vec<PathBuf>, SourceFault> {
    let paths = glob::glob(pattern).map_err(|error| SourceFault::BadPattern { reason: error.msg })?;
    let mut files = Vec::new();
    for path in paths {
        let path = path.map_err(std::io::Error::from)?;
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() { Err(SourceFault::NoMatch) } else { Ok(files) }
}
