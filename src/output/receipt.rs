//! The receipt in every directory that deepwide writes: what the weights were made of and how, and the hash of each file.
//!
//! It is written last, so a directory with a receipt is complete, and [`verify`] can tell later whether it still is.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{FileError, FileFault, InFile};
use crate::output::disk::{Disk, Kind};
use crate::output::manifest::{FileRecord, Mismatch};
use crate::output::read::{is_directory, read_bounded};
use crate::output::{OutputError, ReceiptFault, TEMPLATES_FOLDER, is_output_name};

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
    match files.iter().find(|record| !is_output_name(&record.name)) {
        Some(record) => Err(InFile::new(path, ReceiptFault::UnsafeFileName { name: record.name.clone() }).into()),
        None => Ok(files),
    }
}

/// The first parent that the receipt of a directory records; `None` without a receipt or a parent in it.
///
/// # Errors
/// [`OutputError::Receipt`], [`OutputError::File`].
pub fn recorded_parent(disk: &dyn Disk, directory: &Path) -> Result<Option<Value>, OutputError> {
    /// The part that is read.
    #[derive(Deserialize)]
    struct Parents {
        #[serde(default)]
        parents: Vec<Value>,
    }
    let path = directory.join(RECEIPT);
    let text = match read_bounded(disk, &path, LIMIT_BYTES) {
        Err(error) if matches!(error.fault, FileFault::NotFound) => return Ok(None),
        text => text?,
    };
    let record: Result<Parents, _> = serde_json::from_slice(&text);
    let record = record.map_err(|error| InFile::new(&path, ReceiptFault::Malformed(error)))?;
    Ok(record.parents.into_iter().next())
}

/// Kind of each entry of an output, by the files that its receipt names.
pub(super) fn expected(files: &[FileRecord]) -> HashMap<&OsStr, Kind> {
    let kinds = files.iter().flat_map(|record| {
        let folder = record.name.split_once('/').map(|(folder, _)| (OsStr::new(folder), Kind::Directory));
        [(OsStr::new(&record.name), Kind::File)].into_iter().chain(folder)
    });
    kinds.chain([(OsStr::new(RECEIPT), Kind::File)]).collect()
}

/// The names in an output, those in its folder of chat templates included.
pub(super) fn entries(disk: &dyn Disk, directory: &Path) -> Result<Vec<OsString>, FileError> {
    let list = |path: &Path| disk.list(path).map_err(FileError::io(path));
    let (mut names, folder) = (list(directory)?, directory.join(TEMPLATES_FOLDER));
    if is_directory(disk, &folder)? {
        let inside = |file: OsString| [OsStr::new(TEMPLATES_FOLDER), OsStr::new("/"), &file].into_iter().collect();
        names.extend(list(&folder)?.into_iter().map(inside).collect::<Vec<OsString>>());
    }
    Ok(names)
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
    let known = expected(&files);
    let mut names = entries(&**disk, directory)?;
    names.sort();
    let unknown = names.iter().filter(|name| !known.contains_key(name.as_os_str()));
    mismatches.extend(unknown.map(|name| Mismatch::Unknown { name: name.to_string_lossy().into_owned() }));
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
    fn the_folder_of_templates_is_verified_too() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        let template = |name: &str| format!("{TEMPLATES_FOLDER}/{name}.jinja");
        let mut partial = PartialDirectory::create(disk(), &out, Existing::Keep).unwrap();
        partial.write(&template("a"), b"a").unwrap();
        let receipt = serde_json::json!({"files": partial.files()}).to_string();
        partial.write(RECEIPT, receipt.as_bytes()).unwrap();
        partial.commit().unwrap();
        let found = || verify(&disk(), &out, &mut |_| ()).unwrap().mismatches;
        assert_eq!(found(), []);
        fs::write(out.join(template("b")), "").unwrap();
        assert_eq!(found(), [Mismatch::Unknown { name: template("b") }]);
        fs::remove_dir_all(out.join(TEMPLATES_FOLDER)).unwrap();
        assert_eq!(found(), [Mismatch::Missing { name: template("a") }]);
        fs::write(out.join(TEMPLATES_FOLDER), "").unwrap();
        assert_eq!(found(), [Mismatch::Missing { name: template("a") }]);
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
        for name in ["../secret", "additional_chat_templates/../../secret.jinja", "folder/secret"] {
            let file = FileRecord { name: name.to_owned(), size_bytes: 0, blake3: String::new() };
            fs::write(root.path().join(RECEIPT), serde_json::json!({"files": [file]}).to_string()).unwrap();
            let error = verify(&disk(), root.path(), &mut |_| ()).unwrap_err();
            assert!(
                matches!(error, OutputError::Receipt(InFile { fault: ReceiptFault::UnsafeFileName { .. }, .. })),
                "{error}"
            );
        }
    }
}
