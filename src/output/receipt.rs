//! The receipt in every directory that deepwide writes: what the weights were made of and how, and the hash of each file.
//!
//! It is written last, so a directory with a receipt is complete, and [`verify`] can tell later whether it still is.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use crate::error::{FileError, FileFault, InFile};
use crate::output::disk::{Disk, Kind};
use crate::output::manifest::{FileRecord, Mismatch};
use crate::output::read::read_bounded;
use crate::output::{OutputError, ReceiptFault, is_plain_file_name};

/// The version of the records of a growth: the receipt, and the plan that `--dry-run` prints.
pub const RECORD_FORMAT: u32 = 2;

/// The file name of the receipt.
pub const RECEIPT: &str = "deepwide.json";

const LIMIT_BYTES: u64 = 64 << 20;

/// The part of a receipt that deepwide reads back.
#[derive(Deserialize)]
struct Files {
    files: Vec<FileRecord>,
}

/// The result of [`verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// Files that the receipt names.
    pub num_files: usize,
    /// Every difference between the directory and its receipt.
    pub mismatches: Vec<Mismatch>,
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
    let files = files.map_err(|error| InFile::new(&path, ReceiptFault::Malformed(error)))?.files;
    match files.iter().find(|record| !is_plain_file_name(&record.name)) {
        Some(record) => Err(InFile::new(path, ReceiptFault::UnsafeFileName { name: record.name.clone() }).into()),
        None => Ok(files),
    }
}

/// Hashes every file of a directory and compares it with the receipt. `watch` receives the size of each chunk read.
///
/// # Errors
/// [`OutputError::NoReceipt`], [`OutputError::Receipt`], [`OutputError::File`].
pub fn verify(disk: &Arc<dyn Disk>, directory: &Path, watch: &mut dyn FnMut(u64)) -> Result<Verification, OutputError> {
    if disk.stat(directory).map_err(FileError::io(directory))?.kind != Kind::Directory {
        return Err(FileError::new(directory, FileFault::NotADirectory).into());
    }
    let files = files(&**disk, directory)?;
    let mut mismatches = Vec::new();
    for record in &files {
        mismatches.extend(record.mismatch(&**disk, directory, watch)?);
    }
    let known: HashSet<&str> = files.iter().map(|record| record.name.as_str()).chain([RECEIPT]).collect();
    let mut names = disk.list(directory).map_err(FileError::io(directory))?;
    names.sort();
    let unknown = names.iter().map(|name| name.to_string_lossy()).filter(|name| !known.contains(name.as_ref()));
    mismatches.extend(unknown.map(|name| Mismatch::Unknown { name: name.into_owned() }));
    Ok(Verification { num_files: files.len(), mismatches })
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
    fn every_mismatch_is_reported() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        written(&out);
        let mut watched = 0;
        let unchanged = Verification { num_files: 4, mismatches: vec![] };
        assert_eq!(verify(&disk(), &out, &mut |bytes| watched += bytes).unwrap(), unchanged);
        assert_eq!(watched, 20);
        fs::remove_file(out.join("a")).unwrap();
        fs::write(out.join("b"), "longer").unwrap();
        fs::write(out.join("c"), "ccccx").unwrap();
        fs::remove_file(out.join("d")).unwrap();
        fs::create_dir(out.join("d")).unwrap();
        fs::write(out.join("stray"), "").unwrap();
        let mismatches = verify(&disk(), &out, &mut |_| ()).unwrap().mismatches;
        let shown: Vec<String> = mismatches.iter().map(Mismatch::to_string).collect();
        assert_eq!(shown.len(), 5, "{shown:?}");
        assert_eq!(shown[0], "\"a\" is missing");
        assert_eq!(shown[1], "\"b\" has 6 bytes, expected 5");
        assert!(shown[2].starts_with("\"c\" has blake3 ") && shown[2].contains(", expected "), "{}", shown[2]);
        assert_eq!(shown[3], "\"d\" is not a regular file");
        assert_eq!(shown[4], "\"stray\" is not in the receipt");
    }

    #[test]
    fn a_directory_without_receipt_is_not_verified() {
        let root = tempfile::tempdir().unwrap();
        let refused = |path: &Path| verify(&disk(), path, &mut |_| ()).unwrap_err();
        let error = refused(root.path());
        assert!(error.to_string().contains("has no deepwide.json: deepwide did not write it"), "{error}");
        assert_eq!(error.kind(), crate::error::ErrorKind::NotFound);
        let error = refused(&root.path().join("absent"));
        assert!(error.to_string().contains("absent\": does not exist"), "{error}");
        std::fs::write(root.path().join("file"), "").unwrap();
        assert!(matches!(
            refused(&root.path().join("file")),
            OutputError::File(InFile { fault: FileFault::NotADirectory, .. })
        ));
    }

    #[test]
    fn a_receipt_cannot_name_files_outside_its_directory() {
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
