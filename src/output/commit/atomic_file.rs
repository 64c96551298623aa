//! A single file, replaced completely or left as it was.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use tempfile::Builder;

use crate::error::{FileError, FileFault};
use crate::output::disk::{disk, parent_of};

/// Replaces the file at `path` by one with these bytes, or leaves it as it was.
///
/// The new file has the permissions of the old one. A symbolic link stays, and the file it leads to is replaced; a pipe or a
/// device is written to.
///
/// # Errors
/// [`FileFault::NotFound`] if the parent of `path` does not exist; [`FileFault::NotAFile`] if `path` is a directory;
/// [`FileFault::Io`], also if the old file is read-only.
pub fn write_file_atomically(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let old = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        old => Some(old.map_err(FileError::io(path))?),
    };
    let Some(old) = old else { return write(path, bytes, |_| Ok(())) };
    if old.is_dir() {
        return Err(FileError::new(path, FileFault::NotAFile));
    }
    let mut writable = OpenOptions::new().write(true).open(path).map_err(FileError::io(path))?;
    if !old.is_file() {
        return writable.write_all(bytes).map_err(FileError::io(path));
    }
    let path = path.canonicalize().map_err(FileError::io(path))?;
    write(&path, bytes, |new| new.set_permissions(old.permissions()))
}

fn write(path: &Path, bytes: &[u8], prepare: impl FnOnce(&File) -> io::Result<()>) -> Result<(), FileError> {
    let parent = parent_of(path);
    let mut builder = Builder::new();
    builder.prefix(".partial-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(parent).map_err(FileError::io(parent))?;
    let written = file.write_all(bytes).and_then(|()| prepare(file.as_file())).and_then(|()| file.as_file().sync_all());
    written.map_err(FileError::io(path))?;
    file.persist(path).map_err(|failed| FileError::io(path)(failed.error))?;
    disk().sync_directory(parent).map_err(FileError::io(parent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::commit::tests::names;

    #[test]
    fn a_file_is_replaced_completely() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("results.json");
        write_file_atomically(&path, b"old").unwrap();
        write_file_atomically(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(root.path()), ["results.json"]);
    }

    #[test]
    fn only_a_file_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let fault = |name| write_file_atomically(&root.path().join(name), b"").unwrap_err();
        let missing = fault("absent/file");
        assert!(missing.path.ends_with("absent") && matches!(missing.fault, FileFault::NotFound), "{missing}");
        fs::create_dir(root.path().join("directory")).unwrap();
        assert!(matches!(fault("directory").fault, FileFault::NotAFile));
        assert_eq!(names(root.path()), ["directory"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_and_permissions_stay() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let root = tempfile::tempdir().unwrap();
        let [file, link] = ["file", "link"].map(|name| root.path().join(name));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        symlink("file", &link).unwrap();
        write_file_atomically(&link, b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert!(link.is_symlink());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let plain = root.path().join("plain");
        fs::write(&plain, "").unwrap();
        let new = root.path().join("new");
        write_file_atomically(&new, b"").unwrap();
        assert_eq!(fs::metadata(&new).unwrap().permissions(), fs::metadata(&plain).unwrap().permissions());
    }

    #[cfg(unix)]
    #[test]
    fn a_device_is_written_to_and_stays() {
        use std::os::unix::fs::FileTypeExt;
        write_file_atomically(Path::new("/dev/null"), b"nothing").unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    }
}
