//! A file that is hashed while it is written.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::FileError;
use crate::output::disk::{Disk, WriteFile};
use crate::output::manifest::FileRecord;

/// A file under construction in a [`PartialDirectory`](super::PartialDirectory).
pub struct PartialFile {
    path: PathBuf,
    name: String,
    file: Box<dyn WriteFile>,
    size_bytes: u64,
    hash: blake3::Hasher,
}

impl PartialFile {
    pub(super) fn create(disk: &dyn Disk, directory: &Path, name: &str) -> Result<Self, FileError> {
        let path = directory.join(name);
        let file = disk.create(&path).map_err(FileError::io(&path))?;
        Ok(Self { path, name: name.to_owned(), file, size_bytes: 0, hash: blake3::Hasher::new() })
    }

    /// Syncs it to disk.
    pub(super) fn finish(mut self) -> Result<FileRecord, FileError> {
        self.file.flush().and_then(|()| self.file.sync()).map_err(FileError::io(&self.path))?;
        let blake3 = self.hash.finalize().to_hex().to_string();
        Ok(FileRecord { name: self.name, size_bytes: self.size_bytes, blake3 })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.write_all(bytes).map_err(FileError::io(&self.path))
    }

    /// Its path while it is written.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Writes and hashes all bytes in parallel.
impl Write for PartialFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (file, hash) = (&mut self.file, &mut self.hash);
        if bytes.len() < WORTH_A_THREAD_BYTES {
            hash.update(bytes);
            file.write_all(bytes)?;
        } else {
            rayon::join(|| file.write_all(bytes), || hash.update(bytes)).0?;
        }
        self.size_bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl WriteFile for PartialFile {
    fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }
}

/// Chunk size below which waking a second thread takes longer than hashing.
pub(super) const WORTH_A_THREAD_BYTES: usize = 1 << 16;
