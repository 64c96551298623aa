//! Directories next to an output that belong to a run, and the leftovers of killed runs.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::{FileError, FileFault};
use crate::output::OutputError;
use crate::output::disk::{Disk, Kind, parent_of};

/// A directory next to a target, called `<target>.deepwide-<use>-<process>`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Beside {
    /// Under construction, or being removed.
    Partial,
    /// A complete output that moved aside for the one that replaces it.
    Replaced,
}

impl Beside {
    /// That of this process.
    pub fn path(self, target: &Path) -> PathBuf {
        target.with_file_name(format!("{}{}", self.prefix(target), std::process::id()))
    }

    fn prefix(self, target: &Path) -> String {
        let used_as = match self {
            Self::Partial => "partial",
            Self::Replaced => "replaced",
        };
        format!("{}.deepwide-{used_as}-", target.file_name().unwrap_or_default().to_string_lossy())
    }

    /// Those of all processes, sorted.
    fn all(self, disk: &dyn Disk, target: &Path) -> Result<Vec<PathBuf>, FileError> {
        let (parent, prefix) = (parent_of(target), self.prefix(target));
        let is_one = |name: &str| {
            let process = name.strip_prefix(&prefix);
            process.is_some_and(|process| !process.is_empty() && process.bytes().all(|byte| byte.is_ascii_digit()))
        };
        let mut names = disk.list(parent).map_err(FileError::io(parent))?;
        names.retain(|name| name.to_str().is_some_and(is_one));
        names.sort();
        let paths = names.iter().map(|name| parent.join(name));
        Ok(paths.filter(|path| disk.stat(path).is_ok_and(|stat| stat.kind == Kind::Directory)).collect())
    }
}

/// Gives an output that a killed run had moved aside its name again, which must be free. Returns whether there was one.
///
/// # Errors
/// [`OutputError::Busy`] if a living process may have moved it, which is about to replace it; [`OutputError::File`].
pub(super) fn put_back(disk: &dyn Disk, target: &Path) -> Result<bool, OutputError> {
    let replaced = match Beside::Replaced.all(disk, target) {
        // Without a parent, there is nothing next to the target.
        Err(error) if matches!(error.fault, FileFault::NotFound) => return Ok(false),
        replaced => replaced?,
    };
    let Some(aside) = replaced.first() else { return Ok(false) };
    for partial in Beside::Partial.all(disk, target)? {
        if disk.try_lock(&partial).is_ok_and(|lock| lock.is_none()) {
            return Err(OutputError::Busy { path: target.to_owned(), partial });
        }
    }
    disk.rename(aside, target).map_err(FileError::io(target))?;
    Ok(true)
}

/// Removes the leftovers of killed runs next to `target`, except those that a living process has locked.
pub(super) fn remove_leftovers(disk: &dyn Disk, target: &Path) -> Result<Vec<PathBuf>, OutputError> {
    let mut removed = Vec::new();
    for path in Beside::Partial.all(disk, target)? {
        let lock = match disk.try_lock(&path) {
            // It has gone, or there are no locks here, so that it may be in use.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::Unsupported) => continue,
            lock => lock.map_err(FileError::io(&path))?,
        };
        if lock.is_none() {
            return Err(OutputError::Busy { path: target.to_owned(), partial: path });
        }
        disk.remove_tree(&path).map_err(FileError::io(&path))?;
        removed.push(path);
    }
    let replaced = Beside::Replaced.all(disk, target)?;
    // The target is read after they were listed: what it holds then has replaced them.
    if !replaced.is_empty() && disk.list(target).is_ok_and(|names| !names.is_empty()) {
        // Renamed first, so that half of an output is never put back.
        let partial = Beside::Partial.path(target);
        for path in replaced {
            if disk.rename(&path, &partial).is_ok() {
                disk.remove_tree(&partial).map_err(FileError::io(&partial))?;
                removed.push(path);
            }
        }
    }
    Ok(removed)
}
