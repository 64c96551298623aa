//! A file on its way: what has arrived, its hash so far, and the one step that gives it its name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::HubError;

/// Bytes read or written at once.
pub(super) const BUFFER_BYTES: usize = 256 << 10;

/// The beginning of a file, as far as it has arrived.
#[derive(Debug)]
pub(super) struct Partial {
    path: PathBuf,
    file: File,
    hash: Sha256,
    len: u64,
}

impl Partial {
    /// Goes on from what an earlier download left at `path`, or from nothing.
    pub fn open(path: &Path, go_on: bool) -> Result<Self, HubError> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(!go_on).open(path);
        let mut file = file.map_err(HubError::io(path))?;
        let mut hash = Sha256::new();
        let len = hash_on(&mut file, &mut hash).map_err(HubError::io(path))?;
        Ok(Self { path: path.to_owned(), file, hash, len })
    }

    /// Bytes that have arrived.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Begins again with nothing.
    pub fn restart(&mut self) -> Result<(), HubError> {
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(HubError::io(&self.path))?;
        (self.hash, self.len) = (Sha256::new(), 0);
        Ok(())
    }

    /// Puts bytes at the end.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(HubError::io(&self.path))?;
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// The sha256 of what has arrived.
    pub fn sha256(&self) -> String {
        hexadecimal(self.hash.clone())
    }

    /// Brings the file to disk and gives it its name, in place of whatever had it.
    pub fn finish(self, name: &Path) -> Result<(), HubError> {
        self.file.sync_all().and_then(|()| fs::rename(&self.path, name)).map_err(HubError::io(name))?;
        sync_directory(name.parent().unwrap_or(name)).map_err(HubError::io(name))
    }

    /// Puts the file where nobody goes on from it.
    pub fn put_aside(&self, name: &Path) -> Result<(), HubError> {
        fs::rename(&self.path, name).map_err(HubError::io(name))
    }
}

/// The sha256 of the file at `path`.
pub(super) fn sha256_of(path: &Path) -> Result<String, HubError> {
    let mut hash = Sha256::new();
    File::open(path).and_then(|mut file| hash_on(&mut file, &mut hash)).map_err(HubError::io(path))?;
    Ok(hexadecimal(hash))
}

fn hash_on(file: &mut File, hash: &mut Sha256) -> io::Result<u64> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut len = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(len),
            Ok(count) => {
                hash.update(&buffer[..count]);
                len += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(unix)]
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(not(unix))]
fn sync_directory(_directory: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA256_OF_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn what_arrives_in_two_sessions_is_one_file_with_one_hash() {
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
    fn a_restart_forgets_bytes_and_hash() {
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
