//! The traits through which checkpoints are read and written.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

/// The operations of a file system that checkpoints need.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Describes what is at `path`; symbolic links are followed.
    ///
    /// # Errors
    /// What the operating system reports, here and in all other methods.
    fn stat(&self, path: &Path) -> io::Result<Stat>;

    /// The names in a directory, in no order.
    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>>;

    /// Opens a file to read from.
    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadAt>>;

    /// Creates a file that must not exist.
    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>>;

    /// Creates a directory that must not exist; its parent must.
    fn create_directory(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;

    /// Renames `from` to `to`, which must be free.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Exchanges the names of `from` and `to` in one step; [`io::ErrorKind::Unsupported`] where that cannot be done.
    fn exchange(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    fn remove_empty(&self, directory: &Path) -> io::Result<()>;

    /// Removes a directory with all that is in it.
    fn remove_tree(&self, directory: &Path) -> io::Result<()>;

    /// Bytes that the user can still write to the file system of `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;

    /// Takes the lock of a directory until the guard is dropped or the process dies; `None` if another holds it;
    /// [`io::ErrorKind::Unsupported`] where there are no locks.
    fn try_lock(&self, directory: &Path) -> io::Result<Option<Lock>>;
}

/// A file to read from, at any offset.
pub trait ReadAt: Send + Sync {
    /// Describes the open file as it is now.
    ///
    /// # Errors
    /// What the operating system reports.
    fn stat(&self) -> io::Result<Stat>;

    /// Reads some bytes from `offset` on, as [`std::io::Read::read`] does.
    ///
    /// # Errors
    /// What the operating system reports.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Fills `bytes` from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the file ends before; what the operating system says.
    fn read_exact_at(&self, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.read_at(bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => (bytes, offset) = (&mut bytes[count..], offset + count as u64),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A file to write to, from its start on.
pub trait WriteFile: Write + Send {
    /// Syncs what was written to disk.
    ///
    /// # Errors
    /// What the operating system reports. The file cannot be trusted afterwards: a second call may report success.
    fn sync(&mut self) -> io::Result<()>;
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// File, directory or something else.
    pub kind: Kind,
    /// Size of a file.
    pub size_bytes: u64,
    /// When its bytes last changed, if the file system records that.
    pub modified: Option<SystemTime>,
    /// Device and inode: two paths with the same identity are the same file.
    pub identity: (u64, u64),
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A pipe, a device, a socket.
    Other,
}

/// A held lock.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "held for its drop")] pub(super) File);

impl Stat {
    pub(super) fn of(metadata: &fs::Metadata) -> Self {
        let kind = match metadata.file_type() {
            kind if kind.is_file() => Kind::File,
            kind if kind.is_dir() => Kind::Directory,
            _ => Kind::Other,
        };
        Self { kind, size_bytes: metadata.len(), modified: metadata.modified().ok(), identity: identity(metadata) }
    }
}

#[cfg(unix)]
fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn identity(_metadata: &fs::Metadata) -> (u64, u64) {
    (0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_interrupted_reads_continue() {
        struct Halting(std::sync::atomic::AtomicBool);
        impl ReadAt for Halting {
            fn stat(&self) -> io::Result<Stat> {
                unreachable!("not called")
            }
            fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
                if self.0.fetch_not(std::sync::atomic::Ordering::Relaxed) {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                bytes[0] = offset as u8;
                Ok(usize::from(offset < 9))
            }
        }
        let file = Halting(true.into());
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, 5).unwrap();
        assert_eq!(bytes, [5, 6, 7, 8]);
        assert_eq!(file.read_exact_at(&mut bytes, 6).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
