//! A directory in memory, read as a disk.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::seam::{Disk, Kind, Lock, ReadAt, Stat, WriteFile};

/// A disk in memory with the files of one directory. Nothing can be written.
pub struct MemoryDisk {
    directory: PathBuf,
    files: HashMap<PathBuf, Arc<[u8]>>,
}

impl MemoryDisk {
    /// A disk with these files, by name, in `directory`.
    pub fn with(directory: &Path, files: &[(&str, &[u8])]) -> Arc<dyn Disk> {
        let file = |(name, bytes): &(&str, &[u8])| (directory.join(name), Arc::from(*bytes));
        Arc::new(Self { directory: directory.to_owned(), files: files.iter().map(file).collect() })
    }

    fn file(&self, path: &Path) -> io::Result<File> {
        self.files.get(path).map(|bytes| File(bytes.clone())).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// Without the bytes of the files.
impl fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("MemoryDisk").field("directory", &self.directory).finish_non_exhaustive()
    }
}

struct File(Arc<[u8]>);

fn stat(kind: Kind, size_bytes: u64) -> Stat {
    Stat { kind, size_bytes, modified: None, identity: (0, 0) }
}

fn read_only<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl ReadAt for File {
    fn stat(&self) -> io::Result<Stat> {
        Ok(stat(Kind::File, self.0.len() as u64))
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = self.0.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(bytes.len());
        bytes[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}

impl Disk for MemoryDisk {
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        if path == self.directory { Ok(stat(Kind::Directory, 0)) } else { self.file(path)?.stat() }
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        if directory != self.directory {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(self.files.keys().filter_map(|path| path.file_name().map(ToOwned::to_owned)).collect())
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadAt>> {
        Ok(Box::new(self.file(path)?))
    }

    fn create(&self, _path: &Path) -> io::Result<Box<dyn WriteFile>> {
        read_only()
    }

    fn create_directory(&self, _path: &Path) -> io::Result<()> {
        read_only()
    }

    fn sync_directory(&self, _directory: &Path) -> io::Result<()> {
        read_only()
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        read_only()
    }

    fn exchange(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        read_only()
    }

    fn remove_empty(&self, _directory: &Path) -> io::Result<()> {
        read_only()
    }

    fn remove_tree(&self, _directory: &Path) -> io::Result<()> {
        read_only()
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(0)
    }

    fn try_lock(&self, _directory: &Path) -> io::Result<Option<Lock>> {
        Ok(None)
    }
}
