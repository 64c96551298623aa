//! A file while it is downloaded, and its hash so far.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::FileError;
use crate::output::disk::{disk, parent_of};
use crate::output::read::{hexadecimal, read_through};

/// The beginning of a file.
#[derive(Debug)]
pub(super) struct Partial {
    path: PathBuf,
    file: File,
    hash: Sha256,
    len: u64,
}

impl Partial {
    /// Opens what an earlier download left at `path`, and empties it unless `resume`.
    pub fn open(path: &Path, resume: bool) -> Result<Self, FileError> {
        let open = || -> io::Result<_> {
            let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
            if !resume {
                file.set_len(0)?;
            }
            let mut hash = Sha256::new();
            let len = update(&mut hash, &file)?;
            Ok(Self { path: path.to_owned(), file, hash, len })
        };
        open().map_err(FileError::io(path))
    }

    /// Bytes on disk.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Empties the file.
    pub fn restart(&mut self) -> Result<(), FileError> {
        self.file.set_len(0).map_err(FileError::io(&self.path))?;
        (self.hash, self.len) = (Sha256::new(), 0);
        Ok(())
    }

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.file.write_all(bytes).map_err(FileError::io(&self.path))?;
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// The sha256 of the bytes on disk.
    pub fn sha256(&self) -> String {
        hexadecimal(&self.hash.clone().finalize())
    }

    /// Syncs the file to disk and gives it its final name.
    pub fn finish(self, name: &Path) -> Result<(), FileError> {
        let finished = self.file.sync_all().and_then(|()| fs::rename(&self.path, name));
        finished.and_then(|()| disk().sync_directory(parent_of(name))).map_err(FileError::io(name))
    }

    /// Renames the file, so that no download resumes it.
    pub fn put_aside(&self, name: &Path) -> Result<(), FileError> {
        fs::rename(&self.path, name).map_err(FileError::io(name))
    }
}

/// The sha256 of the file at `path`.
pub(super) fn sha256_of(path: &Path) -> Result<String, FileError> {
    let mut hash = Sha256::new();
    File::open(path).and_then(|file| update(&mut hash, &file)).map_err(FileError::io(path))?;
    Ok(hexadecimal(&hash.finalize()))
}

/// Hashes a whole file and returns its size.
fn update(hash: &mut Sha256, file: &File) -> io::Result<u64> {
    let mut len = 0;
    read_through(file, &mut |bytes| len += bytes, &mut |bytes| hash.update(bytes))?;
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA256_OF_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_resumed_file_has_one_hash() {
        let root = tempfile::tempdir().unwrap();
        let [path, name] = ["x.incomplete", "x"].map(|name| root.path().join(name));
        Partial::open(&path, true).unwrap().write(b"ab").unwrap();
        let mut partial = Partial::open(&path, true).unwrap();
        assert_eq!(partial.len(), 2);
        partial.write(b"c").unwrap();
        assert_eq!(partial.sha256(), SHA256_OF_ABC);
        assert!(!name.exists());
        partial.finish(&name).unwrap();
        assert!(!path.exists());
        assert_eq!(sha256_of(&name).unwrap(), SHA256_OF_ABC);
    }

    #[test]
    fn a_restart_drops_bytes_and_hash() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x.incomplete");
        let mut partial = Partial::open(&path, true).unwrap();
        partial.write(b"longer than abc").unwrap();
        partial.restart().unwrap();
        partial.write(b"abc").unwrap();
        assert_eq!((partial.len(), partial.sha256().as_str()), (3, SHA256_OF_ABC));
        assert_eq!(fs::read(&path).unwrap(), b"abc");
        assert_eq!(Partial::open(&path, false).unwrap().len(), 0);
    }
}
