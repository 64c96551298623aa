//! Signals: the first stops a command cleanly, so that nothing half-written is left; the second ends the process at once.
//! Where there is nothing to clean up, the first does too.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};

/// The first signal caught, or 0.
static CAUGHT: AtomicI32 = AtomicI32::new(0);

/// Reports a signal, by its number.
type Report = Box<dyn FnOnce(i32) + Send>;

/// Set while a signal may end the process at once: how to report it before.
static AT_ONCE: Mutex<Option<Report>> = Mutex::new(None);

/// Runs work that leaves nothing half-done wherever it stops: a signal caught before or meanwhile is reported, and the
/// process ends at once with the exit code of the signal.
pub(super) fn at_once<T>(report: impl FnOnce(i32) + Send + 'static, work: impl FnOnce() -> T) -> T {
    let lock = || AT_ONCE.lock().unwrap_or_else(PoisonError::into_inner);
    *lock() = Some(Box::new(report));
    end_if_caught();
    let done = work();
    end_if_caught();
    // A thread that reports a signal holds the lock until the process has ended.
    drop(lock().take());
    done
}

fn end_if_caught() {
    let signal = CAUGHT.load(Ordering::SeqCst);
    let mut at_once = AT_ONCE.lock().unwrap_or_else(PoisonError::into_inner);
    if signal != 0
        && let Some(report) = at_once.take()
    {
        report(signal);
        std::process::exit(128 + signal);
    }
}

/// The first signal caught.
pub(super) fn caught() -> Option<i32> {
    Some(CAUGHT.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
}

/// Exit code after a signal: 128 plus its number, so 130 after an interrupt and 143 after a termination.
pub(super) fn exit_code() -> Option<u8> {
    u8::try_from(128 + caught()?).ok()
}

#[cfg(unix)]
mod catching {
    use std::io;
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, OnceLock};

    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
    use signal_hook::iterator::Signals;

    use super::CAUGHT;
    use crate::output::disk::{Disk, Lock, ReadAt, Stat, WriteFile};

    /// Starts to catch signals, once per process: from here on a [`disk`] fails after the first. Before, a signal ends the
    /// process at once, as it should while there is nothing to clean up.
    pub(in crate::cli) fn catch() {
        static CATCHING: OnceLock<()> = OnceLock::new();
        CATCHING.get_or_init(|| {
            // Exceeding the file size limit is then an error of the write.
            let _the_default_ends_the_process = signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
            // Signals that were ignored from the start, as by nohup, stay ignored.
            let wanted = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&signal| !is_ignored(signal));
            let Ok(mut signals) = Signals::new(wanted) else { return };
            std::thread::spawn(move || {
                for signal in &mut signals {
                    if CAUGHT.swap(signal, Ordering::SeqCst) != 0 {
                        std::process::exit(128 + signal);
                    }
                    super::end_if_caught();
                }
            });
        });
    }

    /// Whether the process was started with this signal ignored, if the system reports it.
    fn is_ignored(signal: i32) -> bool {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
    }

    /// The disk of a command that cleans up after a signal.
    pub(in crate::cli) fn disk() -> Arc<dyn Disk> {
        Arc::new(Interruptible(crate::output::disk::disk()))
    }

    /// A disk on which no read or write starts after a signal. Renames and removal still work: what is complete takes its
    /// name, or the output to replace is put back, and all else is cleaned up.
    #[derive(Debug)]
    struct Interruptible(Arc<dyn Disk>);

    fn still_running() -> io::Result<()> {
        match CAUGHT.load(Ordering::SeqCst) {
            0 => Ok(()),
            signal => Err(io::Error::other(format!("stopped by signal {signal}"))),
        }
    }

    impl Disk for Interruptible {
        fn stat(&self, path: &Path) -> io::Result<Stat> {
            self.0.stat(path)
        }

        fn list(&self, directory: &Path) -> io::Result<Vec<std::ffi::OsString>> {
            self.0.list(directory)
        }

        fn open(&self, path: &Path) -> io::Result<Box<dyn ReadAt>> {
            still_running()?;
            Ok(Box::new(Reading(self.0.open(path)?)))
        }

        fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
            still_running()?;
            Ok(Box::new(Writing(self.0.create(path)?)))
        }

        fn create_directory(&self, path: &Path) -> io::Result<()> {
            still_running()?;
            self.0.create_directory(path)
        }

        fn sync_directory(&self, directory: &Path) -> io::Result<()> {
            self.0.sync_directory(directory)
        }

        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.0.rename(from, to)
        }

        fn exchange(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.0.exchange(from, to)
        }

        fn remove_empty(&self, directory: &Path) -> io::Result<()> {
            self.0.remove_empty(directory)
        }

        fn remove_tree(&self, directory: &Path) -> io::Result<()> {
            self.0.remove_tree(directory)
        }

        fn free_bytes(&self, path: &Path) -> io::Result<u64> {
            self.0.free_bytes(path)
        }

        fn try_lock(&self, directory: &Path) -> io::Result<Option<Lock>> {
            self.0.try_lock(directory)
        }
    }

    struct Reading(Box<dyn ReadAt>);

    impl ReadAt for Reading {
        fn stat(&self) -> io::Result<Stat> {
            self.0.stat()
        }

        fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
            still_running()?;
            self.0.read_at(bytes, offset)
        }
    }

    struct Writing(Box<dyn WriteFile>);

    impl io::Write for Writing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            still_running()?;
            self.0.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.0.flush()
        }
    }

    impl WriteFile for Writing {
        fn sync(&mut self) -> io::Result<()> {
            still_running()?;
            self.0.sync()
        }
    }
}

#[cfg(not(unix))]
pub(super) use crate::output::disk::disk;

/// Signals are caught on Unix only.
#[cfg(not(unix))]
pub(super) fn catch() {}
#[cfg(unix)]
pub(super) use catching::{catch, disk};
