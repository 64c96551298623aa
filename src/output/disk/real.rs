//! The real file system.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::seam::{Disk, Lock, ReadAt, Stat, WriteFile};

/// The real file system.
pub fn disk() -> Arc<dyn Disk> {
    Arc::new(RealDisk)
}

#[derive(Debug)]
struct RealDisk;

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
            // Without the flag, only an empty directory at `to` could be replaced.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => rename_to_free(from, to),
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
        // A file system that does not report its size.
        if stat.f_blocks == 0 {
            return Ok(u64::MAX);
        }
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
            // EBADF, ENOLCK, ENOSYS, EOPNOTSUPP: a network file system without locks, or that locks only files opened for
            // writing.
            Err(fs::TryLockError::Error(error)) if matches!(error.raw_os_error(), Some(9 | 37 | 38 | 95)) => {
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

/// [`io::ErrorKind::Unsupported`] if the file system does not know the flags, as NFS, Lustre and many in user space.
#[cfg(target_os = "linux")]
fn rename_with(from: &Path, to: &Path, flags: rustix::fs::RenameFlags) -> io::Result<()> {
    use rustix::fs::CWD;
    use rustix::io::Errno;
    match rustix::fs::renameat_with(CWD, from, CWD, to, flags) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Err(io::ErrorKind::Unsupported.into()),
        renamed => Ok(renamed?),
    }
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

/// A file that is synced in the background while it is written, so that little is left to sync at its end.
struct Writing {
    file: Arc<File>,
    unsynced_bytes: u64,
    syncing: Option<JoinHandle<io::Result<()>>>,
}

/// Bytes between two background syncs.
const SYNC_BYTES: u64 = 64 << 20;

impl Writing {
    /// Waits for the background sync. If it failed, the file cannot be trusted.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::disk::Kind;

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
        assert!(disk().create(&path).is_err(), "an existing file is not created");
        assert!(disk().free_bytes(root.path()).unwrap() > 0);
    }
}
