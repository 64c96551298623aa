//! The receipt that lies in every directory we grow: what it was made of and how, and the hash of each of its files.
//!
//! It is written last, so a directory with a receipt is whole, and [`verify`] can tell later whether it still is.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{FileError, FileFault, InFile};
use crate::output::commit::FileRecord;
use crate::output::disk::{Disk, Kind, open_regular, read_bounded};
use crate::output::{OutputError, ReceiptFault, is_plain_file_name};

/// The version of the records that a growth leaves: those of the receipt, and of the plan that it carries out.
pub const RECORD_FORMAT: u32 = 2;

/// The name of the receipt.
pub const RECEIPT: &str = "deepwide.json";

const LIMIT_BYTES: u64 = 64 << 20;

/// What [`verify`] reads of a receipt; the rest is for people.
#[derive(Deserialize)]
struct Files {
    files: Vec<FileRecord>,
}

/// A file that is not what its receipt says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fault {
    /// It is not there.
    Missing {
        /// Its name.
        name: String,
    },
    /// Something else than a file stands there.
    NotAFile {
        /// Its name.
        name: String,
    },
    /// It has another size.
    Size {
        /// Its name.
        name: String,
        /// Its size.
        found_bytes: u64,
        /// The size in the receipt.
        expected_bytes: u64,
    },
    /// It has the size but not the bytes.
    Hash {
        /// Its name.
        name: String,
        /// BLAKE3 of its bytes.
        found: String,
        /// That in the receipt.
        expected: String,
    },
    /// The receipt does not know it.
    Unknown {
        /// Its name.
        name: String,
    },
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Missing { name } => write!(f, "{name:?} is missing"),
            Self::NotAFile { name } => write!(f, "{name:?} is not a regular file"),
            Self::Size { name, found_bytes, expected_bytes } => {
                write!(f, "{name:?} has {found_bytes} bytes, expected {expected_bytes}")
            }
            Self::Hash { name, found, expected } => write!(f, "{name:?} has blake3 {found}, expected {expected}"),
            Self::Unknown { name } => write!(f, "{name:?} is not in the receipt"),
        }
    }
}

/// The files that the receipt of a directory names.
///
/// # Errors
/// [`OutputError::NoReceipt`], [`OutputError::Receipt`], [`OutputError::File`].
pub(super) fn files(disk: &dyn Disk, directory: &Path) -> Result<Vec<FileRecord>, OutputError> {
    let path = directory.join(RECEIPT);
    let text = read_bounded(disk, &path, LIMIT_BYTES).map_err(|error| match error.fault {
        FileFault::NotFound => OutputError::NoReceipt { path: directory.to_owned() },
        _ => error.into(),
    })?;
    let files: Result<Files, _> = serde_json::from_slice(&text);
    Ok(files.map_err(|error| InFile::new(path, ReceiptFault::Malformed(error)))?.files)
}

/// Hashes every file of a directory again and compares it with the receipt; also how many files the receipt names.
/// `watch` is told of every run of bytes read.
///
/// # Errors
/// [`OutputError::NoReceipt`], [`OutputError::Receipt`], [`OutputError::File`].
pub fn verify(
    disk: &Arc<dyn Disk>,
    directory: &Path,
    watch: &mut dyn FnMut(u64),
) -> Result<(usize, Vec<Fault>), OutputError> {
    if disk.stat(directory).map_err(FileError::io(directory))?.kind != Kind::Directory {
        return Err(FileError::new(directory, FileFault::NotADirectory).into());
    }
    let path = directory.join(RECEIPT);
    let files = files(&**disk, directory)?;
    let mut faults = Vec::new();
    for record in &files {
        if !is_plain_file_name(&record.name) {
            return Err(InFile::new(path, ReceiptFault::UnsafeFileName { name: record.name.clone() }).into());
        }
        faults.extend(fault_of(&**disk, directory, record, watch)?);
    }
    let known: HashSet<&str> = files.iter().map(|record| record.name.as_str()).chain([RECEIPT]).collect();
    let mut names = disk.list(directory).map_err(FileError::io(directory))?;
    names.sort();
    let unknown = names.iter().map(|name| name.to_string_lossy()).filter(|name| !known.contains(name.as_ref()));
    faults.extend(unknown.map(|name| Fault::Unknown { name: name.into_owned() }));
    Ok((files.len(), faults))
}

fn fault_of(
    disk: &dyn Disk,
    directory: &Path,
    record: &FileRecord,
    watch: &mut dyn FnMut(u64),
) -> Result<Option<Fault>, FileError> {
    let (name, path) = (record.name.clone(), directory.join(&record.name));
    let file = match open_regular(disk, &path) {
        Err(InFile { fault: FileFault::NotFound, .. }) => return Ok(Some(Fault::Missing { name })),
        Err(InFile { fault: FileFault::NotAFile, .. }) => return Ok(Some(Fault::NotAFile { name })),
        file => file?,
    };
    let found_bytes = file.stat().map_err(FileError::io(&path))?.size_bytes;
    if found_bytes != record.size_bytes {
        return Ok(Some(Fault::Size { name, found_bytes, expected_bytes: record.size_bytes }));
    }
    let found = crate::output::disk::blake3(&*file, watch).map_err(FileError::io(&path))?;
    let expected = record.blake3.clone();
    Ok((found != expected).then_some(Fault::Hash { name, found, expected }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::output::commit::{Existing, PartialDirectory};
    use crate::output::disk::disk;

    fn written(out: &Path) {
        let mut partial = PartialDirectory::create(disk(), out, Existing::Keep).unwrap();
        for name in ["a", "b", "c", "d"] {
            partial.write(name, name.repeat(5).as_bytes()).unwrap();
        }
        let receipt = serde_json::json!({"files": partial.files()}).to_string();
        partial.write(RECEIPT, receipt.as_bytes()).unwrap();
        partial.commit().unwrap();
    }

    #[test]
    fn every_way_to_differ_from_the_receipt_is_seen() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        written(&out);
        let mut watched = 0;
        assert_eq!(verify(&disk(), &out, &mut |bytes| watched += bytes).unwrap(), (4, vec![]));
        assert_eq!(watched, 20);
        fs::remove_file(out.join("a")).unwrap();
        fs::write(out.join("b"), "longer").unwrap();
        fs::write(out.join("c"), "ccccx").unwrap();
        fs::remove_file(out.join("d")).unwrap();
        fs::create_dir(out.join("d")).unwrap();
        fs::write(out.join("stray"), "").unwrap();
        let (_, faults) = verify(&disk(), &out, &mut |_| ()).unwrap();
        let told: Vec<String> = faults.iter().map(Fault::to_string).collect();
        assert_eq!(told.len(), 5, "{told:?}");
        assert_eq!(told[0], "\"a\" is missing");
        assert_eq!(told[1], "\"b\" has 6 bytes, expected 5");
        assert!(told[2].starts_with("\"c\" has blake3 ") && told[2].contains(", expected "), "{}", told[2]);
        assert_eq!(told[3], "\"d\" is not a regular file");
        assert_eq!(told[4], "\"stray\" is not in the receipt");
    }

    #[test]
    fn what_has_no_receipt_is_not_of_our_making() {
        let root = tempfile::tempdir().unwrap();
        let told = |path: &Path| verify(&disk(), path, &mut |_| ()).unwrap_err();
        let error = told(root.path());
        assert!(error.to_string().contains("has no deepwide.json: deepwide did not write it"), "{error}");
        assert_eq!(error.kind(), crate::error::ErrorKind::NotFound);
        let error = told(&root.path().join("absent"));
        assert!(error.to_string().contains("absent\": does not exist"), "{error}");
        std::fs::write(root.path().join("file"), "").unwrap();
        assert!(matches!(
            told(&root.path().join("file")),
            OutputError::File(InFile { fault: FileFault::NotADirectory, .. })
        ));
    }

    #[test]
    fn a_receipt_that_leads_out_of_its_directory_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let file = FileRecord { name: "../secret".to_owned(), size_bytes: 0, blake3: String::new() };
        fs::write(root.path().join(RECEIPT), serde_json::json!({"files": [file]}).to_string()).unwrap();
        let error = verify(&disk(), root.path(), &mut |_| ()).unwrap_err();
        assert!(
            matches!(error, OutputError::Receipt(InFile { fault: ReceiptFault::UnsafeFileName { .. }, .. })),
            "{error}"
        );
    }
}
