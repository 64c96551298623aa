//! Output that is there whole or not at all.
//!
//! A directory is built beside its final place, `<target>.deepwide-partial-<process>`, and renamed into it. Every file, and then
//! the directory, is on disk (`fsync`) before the rename, and the new name after it, so that neither a failure, nor a
//! kill, nor a power cut leaves half of an output under its name. What a killed run left beside it is removed by the next.

mod partial_file;
mod target;

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tempfile::Builder;

pub use partial_file::PartialFile;
pub(crate) use target::parent_of;
pub use target::{Existing, check_target};

use crate::error::{FileError, FileFault};
use crate::output::OutputError;
use crate::output::disk::{Disk, Lock};
use target::{AtTarget, partial_prefix, remove_leftovers, what_is_at};

/// A directory under construction; dropped before [`commit`](Self::commit), it vanishes.
pub struct PartialDirectory {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    target: PathBuf,
    at_target: AtTarget,
    files: Vec<FileRecord>,
    leftovers: Vec<PathBuf>,
    /// Others see by it that somebody is at work here.
    _lock: Option<Lock>,
    committed: bool,
}

/// A file that was written whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its name in the directory.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// BLAKE3 of its bytes, in hexadecimal: what `b3sum` prints.
    pub blake3: String,
}

impl PartialDirectory {
    /// An empty directory beside `target`, whose parent must exist.
    ///
    /// # Errors
    /// [`OutputError::Exists`] if `target` is neither absent nor an empty directory nor one that `existing` lets
    /// be replaced; [`OutputError::NotOurs`] if the one to replace holds files that its receipt does not name;
    /// [`OutputError::Busy`] if another process is writing it; [`OutputError::File`], also if its parent does not exist.
    pub fn create(disk: Arc<dyn Disk>, target: &Path, existing: Existing) -> Result<Self, OutputError> {
        let at_target = what_is_at(&*disk, target, existing)?;
        let leftovers = remove_leftovers(&*disk, target)?;
        let path = target.with_file_name(format!("{}{}", partial_prefix(target), std::process::id()));
        disk.create_directory(&path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => OutputError::Busy { path: target.to_owned(), partial: path.clone() },
            // A missing parent is what the caller has to hear of.
            io::ErrorKind::NotFound => FileError::new(parent_of(target), FileFault::NotFound).into(),
            // Nobody has asked for the place beside it.
            io::ErrorKind::PermissionDenied => FileError::io(parent_of(target))(error).into(),
            _ => FileError::io(&path)(error).into(),
        })?;
        let lock = match disk.try_lock(&path) {
            Ok(Some(lock)) => Some(lock),
            // Another process took it for a leftover in the moment before it was locked.
            Ok(None) => return Err(OutputError::Busy { path: target.to_owned(), partial: path }),
            // Nobody will take it for a leftover where there are no locks.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => None,
            Err(error) => {
                let _gone_or_left_for_the_next_run = disk.remove_tree(&path);
                return Err(FileError::io(&path)(error).into());
            }
        };
        let (target, files) = (target.to_owned(), Vec::new());
        Ok(Self { disk, path, target, at_target, files, leftovers, _lock: lock, committed: false })
    }

    /// What killed runs had left beside the target; it is gone.
    pub fn leftovers(&self) -> &[PathBuf] {
        &self.leftovers
    }

    /// Begins a file; nothing may stand under its name yet.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn begin(&self, name: &str) -> Result<PartialFile, FileError> {
        PartialFile::create(&*self.disk, &self.path, name)
    }

    /// Brings a file to disk, and remembers it.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn finish(&mut self, file: PartialFile) -> Result<(), FileError> {
        self.files.push(file.finish()?);
        Ok(())
    }

    /// Writes a small file.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        let mut file = self.begin(name)?;
        file.push(bytes)?;
        self.finish(file)
    }

    /// The files that were finished, in that order.
    pub fn files(&self) -> &[FileRecord] {
        &self.files
    }

    /// Gives the directory its name.
    ///
    /// # Errors
    /// [`OutputError::File`], also if something has appeared at the target since. Nothing is left then, unless it was the
    /// last step that failed, which makes the new name itself durable.
    pub fn commit(mut self) -> Result<(), OutputError> {
        let failed = FileError::io(&self.target);
        self.disk.sync_directory(&self.path).map_err(FileError::io(&self.path))?;
        match self.at_target {
            AtTarget::Nothing => self.disk.rename(&self.path, &self.target).map_err(&failed)?,
            AtTarget::EmptyDirectory => {
                self.disk.remove_empty(&self.target).map_err(&failed)?;
                self.disk.rename(&self.path, &self.target).map_err(&failed)?;
            }
            AtTarget::OurDirectory => {
                // Hours may have passed: what has come there meanwhile is not to be deleted.
                what_is_at(&*self.disk, &self.target, Existing::Replace)?;
                self.disk.exchange(&self.path, &self.target).map_err(&failed)?;
            }
        }
        // From here on the partial name belongs to nobody, or to what was replaced.
        self.committed = self.at_target != AtTarget::OurDirectory;
        Ok(self.disk.sync_directory(parent_of(&self.target)).map_err(&failed)?)
    }
}

impl Drop for PartialDirectory {
    fn drop(&mut self) {
        if !self.committed {
            // There is nobody to tell; the next run removes what is left.
            let _left_for_the_next_run = self.disk.remove_tree(&self.path);
        }
    }
}

impl fmt::Debug for PartialDirectory {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("PartialDirectory").field("path", &self.path).field("target", &self.target).finish()
    }
}

/// Replaces the file at `path` by one with these bytes, or leaves it as it was.
///
/// # Errors
/// [`FileFault::NotFound`] if the parent of `path` does not exist; [`FileFault::Io`].
pub fn write_file_atomically(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let parent = parent_of(path);
    let mut builder = Builder::new();
    builder.prefix(".partial-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(parent).map_err(FileError::io(parent))?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(FileError::io(path))?;
    file.persist(path).map_err(|failed| FileError::io(path)(failed.error))?;
    crate::output::disk::disk().sync_directory(parent).map_err(FileError::io(parent))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::partial_file::WORTH_A_THREAD_BYTES;
    use super::*;
    use crate::error::ErrorKind;
    use crate::output::disk::disk;
    use crate::output::receipt::RECEIPT;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn create(target: &Path) -> Result<PartialDirectory, OutputError> {
        PartialDirectory::create(disk(), target, Existing::Keep)
    }

    #[test]
    fn a_directory_appears_whole_under_its_name() {
        let root = tempfile::tempdir().unwrap();
        let mut partial = create(&root.path().join("out")).unwrap();
        partial.write("file", b"text").unwrap();
        let meanwhile = names(root.path());
        assert!(meanwhile.len() == 1 && meanwhile[0].starts_with("out.deepwide-partial-"), "{meanwhile:?}");
        partial.write("empty", b"").unwrap();
        let blake3 = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        let record = FileRecord { name: "empty".to_owned(), size_bytes: 0, blake3: blake3.to_owned() };
        assert_eq!(partial.files()[1], record);
        partial.commit().unwrap();
        assert_eq!(names(root.path()), ["out"]);
        assert_eq!(fs::read_to_string(root.path().join("out/file")).unwrap(), "text");
    }

    #[test]
    fn a_hash_is_the_same_however_its_bytes_come() {
        let root = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..3 * WORTH_A_THREAD_BYTES).map(|i| i as u8).collect();
        let mut partial = create(&root.path().join("out")).unwrap();
        partial.write("whole", &bytes).unwrap();
        let mut parts = partial.begin("parts").unwrap();
        bytes.chunks(1000).for_each(|part| parts.push(part).unwrap());
        partial.finish(parts).unwrap();
        assert_eq!(partial.files()[0].blake3, partial.files()[1].blake3);
        assert_eq!(partial.files()[0].blake3, blake3::hash(&bytes).to_hex().as_str());
    }

    #[test]
    fn a_directory_that_is_not_committed_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let mut partial = create(&root.path().join("out")).unwrap();
        partial.write("file", b"text").unwrap();
        drop(partial);
        assert!(names(root.path()).is_empty());
    }

    #[test]
    fn only_an_empty_directory_is_taken_over() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        fs::create_dir(&out).unwrap();
        create(&out).unwrap().commit().unwrap();
        fs::write(out.join("mine"), "").unwrap();
        assert!(matches!(create(&out), Err(OutputError::Exists { .. })));
        assert!(matches!(create(&out.join("mine")), Err(OutputError::Exists { .. })));
        assert!(matches!(create(Path::new("/")), Err(OutputError::Exists { .. })));
        assert_eq!(names(root.path()), ["out"]);
    }

    #[test]
    fn only_what_we_made_is_replaced_and_only_when_asked() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        fs::create_dir(&out).unwrap();
        fs::write(out.join("mine"), "").unwrap();
        let replace = || PartialDirectory::create(disk(), &out, Existing::Replace);
        assert!(matches!(replace(), Err(OutputError::NotOurs { .. })));
        fs::write(out.join(RECEIPT), r#"{"files": []}"#).unwrap();
        assert!(matches!(replace(), Err(OutputError::NotOurs { .. })), "its receipt does not know the file");
        let record = r#"{"files": [{"name": "mine", "size_bytes": 0, "blake3": ""}]}"#;
        fs::write(out.join(RECEIPT), record).unwrap();
        assert!(matches!(create(&out), Err(OutputError::Exists { .. })));
        let mut partial = replace().unwrap();
        partial.write("new", b"").unwrap();
        assert_eq!(names(&out), [RECEIPT, "mine"], "until the new one is whole the old one stays");
        fs::write(out.join("trained"), "").unwrap();
        assert!(matches!(partial.commit(), Err(OutputError::NotOurs { .. })), "it came meanwhile");
        fs::remove_file(out.join("trained")).unwrap();
        let mut partial = replace().unwrap();
        partial.write("new", b"").unwrap();
        partial.commit().unwrap();
        assert_eq!(names(&out), ["new"]);
        assert_eq!(names(root.path()), ["out"]);
    }

    #[test]
    fn what_appears_at_the_target_meanwhile_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        let partial = create(&out).unwrap();
        fs::create_dir(&out).unwrap();
        fs::write(out.join("mine"), "kept").unwrap();
        assert!(matches!(partial.commit(), Err(OutputError::File(_))));
        assert_eq!(names(root.path()), ["out"]);
        assert_eq!(fs::read_to_string(out.join("mine")).unwrap(), "kept");
    }

    #[test]
    fn what_a_killed_run_left_is_removed_and_what_a_running_one_holds_is_not() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        let dead = root.path().join("out.deepwide-partial-12345");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("half"), "").unwrap();
        fs::create_dir(root.path().join("out.deepwide-partial-notes")).unwrap();
        let partial = create(&out).unwrap();
        assert_eq!(partial.leftovers(), [dead]);
        assert!(matches!(create(&out), Err(OutputError::Busy { .. })));
        partial.commit().unwrap();
        assert_eq!(names(root.path()), ["out", "out.deepwide-partial-notes"]);
    }

    #[test]
    fn a_missing_parent_is_named() {
        let root = tempfile::tempdir().unwrap();
        let is_parent = |error: &FileError| error.path.ends_with("absent") && error.kind() == ErrorKind::NotFound;
        let error = create(&root.path().join("absent/out")).unwrap_err();
        assert!(matches!(&error, OutputError::File(error) if is_parent(error)), "{error}");
        let error = write_file_atomically(&root.path().join("absent/file"), b"").unwrap_err();
        assert!(is_parent(&error), "{error}");
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("results.json");
        write_file_atomically(&path, b"old").unwrap();
        write_file_atomically(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(root.path()), ["results.json"]);
    }

    #[cfg(unix)]
    #[test]
    fn output_can_be_read_by_whom_the_umask_allows() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let plain = root.path().join("plain");
        fs::write(&plain, "").unwrap();
        let ours = root.path().join("ours");
        write_file_atomically(&ours, b"").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&ours), mode(&plain));
        fs::create_dir(root.path().join("plain directory")).unwrap();
        let mut partial = create(&root.path().join("our directory")).unwrap();
        partial.write("file", b"").unwrap();
        partial.commit().unwrap();
        assert_eq!(mode(&root.path().join("our directory")), mode(&root.path().join("plain directory")));
        assert_eq!(mode(&root.path().join("our directory/file")), mode(&plain));
    }
}
