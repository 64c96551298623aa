//! The final place of an output: what may stand there, and what killed runs left beside it.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::FileError;
use crate::output::OutputError;
use crate::output::disk::{Disk, Kind};
use crate::output::receipt::{self, RECEIPT};

/// What to do with a directory that stands at the target already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Refuse anything but an empty directory.
    Keep,
    /// Put the new one in its place, if its receipt shows that it is of our making.
    Replace,
}

/// What stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AtTarget {
    Nothing,
    EmptyDirectory,
    OurDirectory,
}

pub(crate) fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

pub(super) fn partial_prefix(target: &Path) -> String {
    format!("{}.deepwide-partial-", target.file_name().unwrap_or_default().to_string_lossy())
}

/// Checks that an output may go to `target`, as [`PartialDirectory::create`](super::PartialDirectory::create) does, and changes nothing.
///
/// # Errors
/// [`OutputError::Exists`], [`OutputError::NotOurs`], [`OutputError::File`].
pub fn check_target(disk: &dyn Disk, target: &Path, existing: Existing) -> Result<(), OutputError> {
    what_is_at(disk, target, existing).map(|_| ())
}

pub(super) fn what_is_at(disk: &dyn Disk, target: &Path, existing: Existing) -> Result<AtTarget, OutputError> {
    let exists = || OutputError::Exists { path: target.to_owned() };
    if target.file_name().is_none() {
        return Err(exists());
    }
    let kind = match disk.stat(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(AtTarget::Nothing),
        Err(error) => return Err(FileError::io(target)(error).into()),
        Ok(stat) => stat.kind,
    };
    if kind != Kind::Directory {
        return Err(exists());
    }
    let names = disk.list(target).map_err(FileError::io(target))?;
    match existing {
        _ if names.is_empty() => Ok(AtTarget::EmptyDirectory),
        Existing::Keep => Err(exists()),
        Existing::Replace => match stranger(disk, target, &names)? {
            None => Ok(AtTarget::OurDirectory),
            Some(stranger) => Err(OutputError::NotOurs { path: target.to_owned(), stranger }),
        },
    }
}

/// A name in a directory that its receipt does not know, or the receipt itself if there is none.
fn stranger(disk: &dyn Disk, directory: &Path, names: &[OsString]) -> Result<Option<String>, OutputError> {
    if !names.iter().any(|name| name == RECEIPT) {
        return Ok(names.first().map(|name| name.to_string_lossy().into_owned()));
    }
    let known = receipt::files(disk, directory)?;
    let is_known = |name: &&OsString| *name == RECEIPT || known.iter().any(|record| **name == *record.name);
    Ok(names.iter().find(|name| !is_known(name)).map(|name| name.to_string_lossy().into_owned()))
}

/// Removes what killed runs left beside `target`; what a living process holds is not touched.
pub(super) fn remove_leftovers(disk: &dyn Disk, target: &Path) -> Result<Vec<PathBuf>, OutputError> {
    let (parent, prefix) = (parent_of(target), partial_prefix(target));
    let is_leftover = |name: &str| {
        let process = name.strip_prefix(&prefix);
        process.is_some_and(|process| !process.is_empty() && process.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let names = disk.list(parent).map_err(FileError::io(parent))?;
    let mut removed = Vec::new();
    for name in names.iter().filter(|name| name.to_str().is_some_and(is_leftover)) {
        let path = parent.join(name);
        if disk.stat(&path).is_ok_and(|stat| stat.kind != Kind::Directory) {
            continue;
        }
        let lock = match disk.try_lock(&path) {
            // It went away meanwhile, or is no directory of ours, or nobody can tell whether somebody is at work in it.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::Unsupported) => continue,
            lock => lock.map_err(FileError::io(&path))?,
        };
        if lock.is_none() {
            return Err(OutputError::Busy { path: target.to_owned(), partial: path });
        }
        disk.remove_tree(&path).map_err(FileError::io(&path))?;
        removed.push(path);
    }
    Ok(removed)
}
