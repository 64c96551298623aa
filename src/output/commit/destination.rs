//! The place of an output: whether one may be written there.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use super::leftovers::put_back;
use crate::error::FileError;
use crate::output::OutputError;
use crate::output::disk::{Disk, Kind, Stat};
use crate::output::manifest::{FileRecord, Mismatch};
use crate::output::receipt::{self, RECEIPT};

/// What may happen to an output that is already at the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays: only an empty directory is accepted.
    Keep,
    /// It is replaced if every file in it still has the hash of its receipt, so that the command in the receipt makes it again.
    Replace,
    /// It is replaced even if files of its receipt were modified. Files that the receipt does not name still stop the run.
    Discard,
}

impl Existing {
    /// By `--force` and, with it, `--discard-modified`.
    pub fn of(force: bool, discard_modified: bool) -> Self {
        match (force, discard_modified) {
            (false, _) => Self::Keep,
            (true, false) => Self::Replace,
            (true, true) => Self::Discard,
        }
    }
}

/// A place where an output may be written, and what was found there.
#[derive(Debug, Clone)]
pub struct Destination {
    path: PathBuf,
    found: Found,
}

#[derive(Debug, Clone)]
pub(super) enum Found {
    Nothing,
    EmptyDirectory,
    Output(Snapshot),
}

/// The entries of a directory. An entry without [`Stat`] is a symbolic link to nothing.
type Snapshot = BTreeMap<OsString, Option<Stat>>;

impl Destination {
    /// Checks that an output may be written to `path`. Reads files only to compare those of an output that is to be replaced
    /// with their receipt; `watch` receives the size of each chunk read. Writes nothing, but first gives an output that a
    /// killed run had moved aside its name again.
    ///
    /// # Errors
    /// [`OutputError::Busy`], [`OutputError::Exists`], [`OutputError::NamedAsFile`], [`OutputError::NotOurs`], [`OutputError::Modified`],
    /// [`OutputError::Receipt`], [`OutputError::File`].
    pub fn check(
        disk: &dyn Disk,
        path: &Path,
        existing: Existing,
        watch: &mut dyn FnMut(u64),
    ) -> Result<Self, OutputError> {
        let exists = || OutputError::Exists { path: path.to_owned() };
        let destination = |found| Self { path: path.to_owned(), found };
        if path.file_name().is_none() {
            return Err(exists());
        }
        let stat = match disk.stat(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && put_back(disk, path)? => disk.stat(path),
            stat => stat,
        };
        match stat {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return match is_named_as_file(path) {
                    true => Err(OutputError::NamedAsFile { path: path.to_owned() }),
                    false => Ok(destination(Found::Nothing)),
                };
            }
            Err(error) => return Err(FileError::io(path)(error).into()),
            Ok(stat) if stat.kind != Kind::Directory => return Err(exists()),
            Ok(_) => {}
        }
        // Taken before the files are read, so that a change while they are read is seen at the end.
        let snapshot = snapshot(disk, path)?;
        if snapshot.is_empty() {
            return Ok(destination(Found::EmptyDirectory));
        }
        if existing == Existing::Keep {
            return Err(exists());
        }
        refuse_foreign_files(disk, path, &snapshot)?;
        if existing == Existing::Replace {
            refuse_modified_files(disk, path, watch)?;
        }
        Ok(destination(Found::Output(snapshot)))
    }

    /// The final path of the output.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn found(&self) -> &Found {
        &self.found
    }

    /// Checks that an output that is to be replaced is as it was found: hours may have passed.
    pub(super) fn check_unchanged(&self, disk: &dyn Disk) -> Result<(), OutputError> {
        let Found::Output(before) = &self.found else { return Ok(()) };
        let now = snapshot(disk, &self.path)?;
        let changed = before.keys().chain(now.keys()).find(|name| before.get(*name) != now.get(*name));
        changed.map_or(Ok(()), |name| Err(OutputError::Changed { path: self.path.clone(), name: shown(name) }))
    }
}

/// Whether a path ends as those of weight files do.
fn is_named_as_file(path: &Path) -> bool {
    let ends = |extension: &OsStr| ["gguf", "safetensors"].iter().any(|file| extension.eq_ignore_ascii_case(file));
    path.extension().is_some_and(ends)
}

fn shown(name: &OsStr) -> String {
    name.to_string_lossy().into_owned()
}

fn snapshot(disk: &dyn Disk, directory: &Path) -> Result<Snapshot, FileError> {
    let entry = |name: OsString| {
        let path = directory.join(&name);
        match disk.stat(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((name, None)),
            stat => stat.map(|stat| (name, Some(stat))).map_err(FileError::io(&path)),
        }
    };
    receipt::entries(disk, directory)?.into_iter().map(entry).collect()
}

/// Refuses a directory that holds anything but the receipt and regular files that it names.
fn refuse_foreign_files(disk: &dyn Disk, directory: &Path, snapshot: &Snapshot) -> Result<(), OutputError> {
    let records = match snapshot.contains_key(OsStr::new(RECEIPT)) {
        true => receipt::files(disk, directory)?,
        false => Vec::new(),
    };
    let known = receipt::expected(&records);
    let is_ours = |name: &OsString, stat: &Option<Stat>| {
        known.get(&**name).is_some_and(|kind| stat.is_none_or(|stat| stat.kind == *kind))
    };
    let foreign = snapshot.iter().find(|(name, stat)| !is_ours(name, stat));
    let refused = |name| OutputError::NotOurs { path: directory.to_owned(), foreign: shown(name) };
    foreign.map_or(Ok(()), |(name, _)| Err(refused(name)))
}

/// Refuses a directory with a file that differs from its record: it may be the only copy, such as of weights trained in place.
/// A missing file is no loss.
fn refuse_modified_files(disk: &dyn Disk, directory: &Path, watch: &mut dyn FnMut(u64)) -> Result<(), OutputError> {
    let records = receipt::files(disk, directory)?;
    let refuse = |compare: &mut dyn FnMut(&FileRecord) -> Result<Option<Mismatch>, FileError>| {
        let found = records.iter().filter_map(|record| compare(record).transpose());
        let modified = found.filter(|found| !matches!(found, Ok(Mismatch::Missing { .. })));
        let mismatches = modified.collect::<Result<Vec<_>, _>>()?;
        let refused = |mismatches| OutputError::Modified { path: directory.to_owned(), mismatches };
        if mismatches.is_empty() { Ok(()) } else { Err(refused(mismatches)) }
    };
    // Sizes come first: they cost nothing, and hashes read every byte.
    refuse(&mut |record| record.size_mismatch(disk, directory))?;
    refuse(&mut |record| record.mismatch(disk, directory, watch))
}
