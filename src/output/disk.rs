//! The file system, as far as checkpoints need it: the one seam through which they are read and written.
//!
//! Everything that touches a checkpoint takes a [`Disk`]; [`disk`] is the real one. A test puts another in its place,
//! which fails when told to, so that what happens after each failure can be seen.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::SystemTime;

/// What checkpoints ask of a file system.
pub trait Disk: fmt::Debug + Send + Sync {
    /// What stands at `path`, symbolic links followed.
    ///
    /// # Errors
    /// What the operating system says; as of all other methods.
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

    /// Gives `from` the name `to`, which must be free.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// `from` and `to` exchange their names in one step.
    fn exchange(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    fn remove_empty(&self, directory: &Path) -> io::Result<()>;

    /// Removes a directory with all that is in it.
    fn remove_tree(&self, directory: &Path) -> io::Result<()>;

    /// Bytes that a user may still write where `path` lies.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;

    /// Takes the lock of a directory until the guard is dropped or the process dies; `None` if another holds it;
    /// [`io::ErrorKind::Unsupported`] where there are no locks.
    fn try_lock(&self, directory: &Path) -> io::Result<Option<Lock>>;
}

/// A file to read from, at any place.
pub trait ReadAt: Send {
    /// What the open file is now.
    ///
    /// # Errors
    /// What the operating system says.
    fn stat(&self) -> io::Result<Stat>;

    /// Reads some bytes from `offset` on, as [`std::io::Read::read`] does.
    ///
    /// # Errors
    /// What the operating system says.
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
    /// Brings what was written to disk.
    ///
    /// # Errors
    /// What the operating system says. The file cannot be trusted afterwards: a second call may report success.
    fn sync(&mut self) -> io::Result<()>;
}

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// File, directory or something else.
    pub kind: Kind,
    /// Size of a file.
    pub size_bytes: u64,
    /// When its bytes last changed, where the file system keeps that.
    pub modified: Option<SystemTime>,
    /// Device and inode: two paths with one identity are one file.
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
pub struct Lock(#[allow(dead_code, reason = "held for its drop")] File);

/// The real file system.
pub fn disk() -> Arc<dyn Disk> {
    Arc::new(RealDisk)
}

#[derive(Debug)]
struct RealDisk;

impl Stat {
    fn of(metadata: &fs::Metadata) -> Self {
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

impl Disk for RealDisk {
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        fs::metadata(path).map(|metadata| Stat::of(&metadata))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.file_name())).collect()
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadAt>> {
        Ok(Box::new(File::open(path)?))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        Ok(Box::new(Writing { file: Arc::new(file), unsynced_bytes: 0, syncing: None }))
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    #[cfg(unix)]
    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }

    #[cfg(not(unix))]
    fn sync_directory(&self, _directory: &Path) -> io::Result<()> {
        Ok(())
    }

    #[cfg(target_os = "linux")]
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match rename_with(from, to, rustix::fs::RenameFlags::NOREPLACE) {
            // A file system that does not know the flag: an empty directory at `to` is all that could be replaced.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => rename_to_free(from, to),
            result => result,
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        rename_to_free(from, to)
    }

    #[cfg(target_os = "linux")]
    fn exchange(&self, from: &Path, to: &Path) -> io::Result<()> {
        rename_with(from, to, rustix::fs::RenameFlags::EXCHANGE)
    }

    #[cfg(not(target_os = "linux"))]
    fn exchange(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn remove_empty(&self, directory: &Path) -> io::Result<()> {
        fs::remove_dir(directory)
    }

    fn remove_tree(&self, directory: &Path) -> io::Result<()> {
        fs::remove_dir_all(directory)
    }

    #[cfg(unix)]
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    #[cfg(not(unix))]
    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    #[cfg(unix)]
    fn try_lock(&self, directory: &Path) -> io::Result<Option<Lock>> {
        let file = File::open(directory)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            // Network file systems without locks, and those that want a file opened to write.
            Err(fs::TryLockError::Error(error)) if matches!(error.raw_os_error(), Some(9 | 37 | 95)) => {
                Err(io::ErrorKind::Unsupported.into())
            }
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    #[cfg(not(unix))]
    fn try_lock(&self, _directory: &Path) -> io::Result<Option<Lock>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(target_os = "linux")]
fn rename_with(from: &Path, to: &Path, flags: rustix::fs::RenameFlags) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, flags)?)
}

fn rename_to_free(from: &Path, to: &Path) -> io::Result<()> {
    match fs::symlink_metadata(to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(from, to),
        Err(error) => Err(error),
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
    }
}

impl ReadAt for File {
    fn stat(&self) -> io::Result<Stat> {
        self.metadata().map(|metadata| Stat::of(&metadata))
    }

    #[cfg(unix)]
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, bytes, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(self, bytes, offset)
    }
}

/// A file on its way to disk while it is written, so that little is left to wait for at its end.
struct Writing {
    file: Arc<File>,
    unsynced_bytes: u64,
    syncing: Option<JoinHandle<io::Result<()>>>,
}

/// Bytes worth a sync of their own.
const SYNC_BYTES: u64 = 64 << 20;

impl Writing {
    /// Waits for the sync that runs, if one does: after one that failed the file cannot be trusted.
    fn wait(&mut self) -> io::Result<()> {
        let ended = self.syncing.take().map(JoinHandle::join);
        ended.map_or(Ok(()), |result| result.unwrap_or_else(|_| Err(io::Error::other("a sync panicked"))))
    }
}

impl Write for Writing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = (&*self.file).write(bytes)?;
        self.unsynced_bytes += count as u64;
        if self.unsynced_bytes >= SYNC_BYTES && self.syncing.as_ref().is_none_or(JoinHandle::is_finished) {
            self.wait()?;
            let file = Arc::clone(&self.file);
            self.syncing = Some(std::thread::spawn(move || file.sync_data()));
            self.unsynced_bytes = 0;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl WriteFile for Writing {
    fn sync(&mut self) -> io::Result<()> {
        self.wait()?;
        self.file.sync_all()
    }
}

/// The directory that holds `path`; `.` for a bare name.
pub(crate) fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// `path` from the root. A symbolic link at its end is followed, so that its target is replaced and the link stays.
///
/// # Errors
/// [`FileFault::NotFound`] if the link leads to nothing; [`FileFault::Io`].
pub fn absolute(path: &Path) -> Result<PathBuf, FileError> {
    // Without a slash at the end, which would hide the link.
    let path: PathBuf = path.components().collect();
    let absolute = if path.is_symlink() { path.canonicalize() } else { std::path::absolute(&path) };
    absolute.map_err(FileError::io(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rename_replaces_nothing() {
        let root = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| root.path().join(name));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&to).unwrap();
        assert_eq!(disk().rename(&from, &to).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        fs::remove_dir(&to).unwrap();
        disk().rename(&from, &to).unwrap();
        assert!(to.is_dir() && !from.exists());
    }

    #[test]
    fn an_exchange_leaves_both() {
        let root = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| root.path().join(name));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("new"), "").unwrap();
        disk().exchange(&from, &to).unwrap();
        assert!(to.join("new").exists() && from.exists());
    }

    #[test]
    fn a_lock_is_held_once_until_it_is_dropped() {
        let root = tempfile::tempdir().unwrap();
        let held = disk().try_lock(root.path()).unwrap();
        assert!(held.is_some());
        assert!(disk().try_lock(root.path()).unwrap().is_none());
        drop(held);
        assert!(disk().try_lock(root.path()).unwrap().is_some());
    }

    #[test]
    fn one_file_has_one_identity_and_size() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        fs::write(&path, "five!").unwrap();
        let stat = disk().stat(&path).unwrap();
        assert_eq!((stat.kind, stat.size_bytes), (Kind::File, 5));
        assert_eq!(disk().open(&path).unwrap().stat().unwrap(), stat);
        assert!(disk().create(&path).is_err(), "a file that exists is not created");
        assert!(disk().free_bytes(root.path()).unwrap() > 0);
    }

    #[test]
    fn what_is_read_short_or_interrupted_is_read_on() {
        struct Halting(std::cell::Cell<bool>);
        impl ReadAt for Halting {
            fn stat(&self) -> io::Result<Stat> {
                unreachable!("nobody asks")
            }
            fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
                if self.0.replace(!self.0.get()) {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                bytes[0] = offset as u8;
                Ok(usize::from(offset < 9))
            }
        }
        let file = Halting(std::cell::Cell::new(true));
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, 5).unwrap();
        assert_eq!(bytes, [5, 6, 7, 8]);
        assert_eq!(file.read_exact_at(&mut bytes, 6).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
