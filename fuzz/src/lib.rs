//! A disk in memory, of one directory, for parsers that read files.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deepwide::output::disk::{Disk, Kind, Lock, ReadAt, Stat, WriteFile};

/// Where the files of a [`MemoryDisk`] lie.
pub const DIRECTORY: &str = "checkpoint";

/// Files by name; nothing can be written.
#[derive(Debug)]
pub struct MemoryDisk(HashMap<PathBuf, Arc<[u8]>>);

impl MemoryDisk {
    /// A directory with these files.
    pub fn with(files: &[(&str, &[u8])]) -> Arc<dyn Disk> {
        let file = |(name, bytes): &(&str, &[u8])| (Path::new(DIRECTORY).join(name), Arc::from(*bytes));
        Arc::new(Self(files.iter().map(file).collect()))
    }

    fn file(&self, path: &Path) -> io::Result<File> {
        self.0.get(path).map(|bytes| File(bytes.clone())).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

struct File(Arc<[u8]>);

fn stat(kind: Kind, size_bytes: u64) -> Stat {
    Stat { kind, size_bytes, modified: None, identity: (0, 0) }
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
        if path == Path::new(DIRECTORY) {
            return Ok(stat(Kind::Directory, 0));
        }
        self.file(path)?.stat()
    }

    fn list(&self, _directory: &Path) -> io::Result<Vec<OsString>> {
        Ok(self.0.keys().filter_map(|path| path.file_name().map(ToOwned::to_owned)).collect())
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadAt>> {
        Ok(Box::new(self.file(path)?))
    }

    fn create(&self, _path: &Path) -> io::Result<Box<dyn WriteFile>> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn create_directory(&self, _path: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_directory(&self, _directory: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn exchange(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn remove_empty(&self, _directory: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn remove_tree(&self, _directory: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(0)
    }

    fn try_lock(&self, _directory: &Path) -> io::Result<Option<Lock>> {
        Ok(None)
    }
}
