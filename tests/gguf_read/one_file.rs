//! A disk in memory with one file.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;

use deepwide::output::disk::{Disk, Kind, Lock, ReadAt, Stat, WriteFile};

/// Where the file lies.
pub const PATH: &str = "model.gguf";

/// The file; nothing can be written.
#[derive(Debug, Clone)]
pub struct OneFile(pub Arc<Vec<u8>>);

impl ReadAt for OneFile {
    fn stat(&self) -> io::Result<Stat> {
        Ok(Stat { kind: Kind::File, size_bytes: self.0.len() as u64, modified: None, identity: (0, 0) })
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = self.0.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(bytes.len());
        bytes[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Disk for OneFile {
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        if path == Path::new(PATH) { ReadAt::stat(self) } else { Err(io::ErrorKind::NotFound.into()) }
    }
    fn list(&self, _directory: &Path) -> io::Result<Vec<OsString>> {
        Ok(vec![PATH.into()])
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadAt>> {
        Disk::stat(self, path).map(|_| Box::new(self.clone()) as _)
    }
    fn create(&self, _path: &Path) -> io::Result<Box<dyn WriteFile>> {
        refused()
    }
    fn create_directory(&self, _path: &Path) -> io::Result<()> {
        refused()
    }
    fn sync_directory(&self, _directory: &Path) -> io::Result<()> {
        refused()
    }
    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        refused()
    }
    fn exchange(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        refused()
    }
    fn remove_empty(&self, _directory: &Path) -> io::Result<()> {
        refused()
    }
    fn remove_tree(&self, _directory: &Path) -> io::Result<()> {
        refused()
    }
    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(0)
    }
    fn try_lock(&self, _directory: &Path) -> io::Result<Option<Lock>> {
        Ok(None)
    }
}
