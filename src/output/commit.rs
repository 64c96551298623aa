//! Output that is complete or absent.
//!
//! A directory is built beside its final place, as `<target>.deepwide-partial-<process>`, and renamed into it. Every file and the
//! directory are synced to disk before the rename, and the new name after it: no failure, kill or power cut leaves half an
//! output under its name. The next run removes what a killed one left beside it.
//!
//! An output that is replaced exchanges its name with the new one. On a file system that cannot exchange names, it moves to
//! `<target>.deepwide-replaced-<process>` first; the next run puts it back if a killed one left it there.

mod apart;
mod atomic_file;
mod destination;
mod leftovers;
mod partial_file;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use apart::check_apart;
pub use atomic_file::write_file_atomically;
pub use destination::{Destination, Existing};
pub use partial_file::PartialFile;

use crate::error::{FileError, FileFault};
use crate::output::disk::{Disk, Lock, parent_of};
use crate::output::manifest::FileRecord;
use crate::output::{OutputError, TEMPLATES_FOLDER, is_output_name};
use destination::Found;
use leftovers::{Beside, remove_leftovers};

/// A directory under construction. Dropped before [`commit`](Self::commit), it is removed.
pub struct PartialDirectory {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    target: Destination,
    files: Vec<FileRecord>,
    leftovers: Vec<PathBuf>,
    /// Tells other processes that this directory is in use.
    _lock: Option<Lock>,
    /// Whether `path` is removed on drop: unfinished, or replaced.
    obsolete: bool,
}

impl PartialDirectory {
    /// [`Destination::check`], then [`at`](Self::at).
    ///
    /// # Errors
    /// Those of both.
    pub fn create(disk: Arc<dyn Disk>, target: &Path, existing: Existing) -> Result<Self, OutputError> {
        let target = Destination::check(&*disk, target, existing, &mut |_| ())?;
        Self::at(disk, target)
    }

    /// An empty directory beside `target`, whose parent must exist.
    ///
    /// # Errors
    /// [`OutputError::Busy`] if another process is writing to the same target; [`OutputError::File`], also if the parent does
    /// not exist.
    pub fn at(disk: Arc<dyn Disk>, target: Destination) -> Result<Self, OutputError> {
        let parent = parent_of(target.path());
        let leftovers = remove_leftovers(&*disk, target.path())?;
        let path = Beside::Partial.path(target.path());
        let busy = || OutputError::Busy { path: target.path().to_owned(), partial: path.clone() };
        disk.create_directory(&path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => busy(),
            // The user knows the parent, not the name beside the target.
            io::ErrorKind::NotFound => FileError::new(parent, FileFault::NotFound).into(),
            io::ErrorKind::PermissionDenied => FileError::io(parent)(error).into(),
            _ => FileError::io(&path)(error).into(),
        })?;
        let lock = match disk.try_lock(&path) {
            Ok(Some(lock)) => Some(lock),
            // Another process locked it as a leftover before this one could.
            Ok(None) => return Err(busy()),
            // Without locks, no process removes leftovers.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => None,
            Err(error) => {
                let _removed_by_the_next_run = disk.remove_tree(&path);
                return Err(FileError::io(&path)(error).into());
            }
        };
        Ok(Self { disk, path, target, files: Vec::new(), leftovers, _lock: lock, obsolete: true })
    }

    /// Directories that killed runs had left beside the target, now removed.
    pub fn leftovers(&self) -> &[PathBuf] {
        &self.leftovers
    }

    /// Begins a file, whose name must be free: a plain file name, or `additional_chat_templates/NAME.jinja`.
    ///
    /// # Errors
    /// [`FileFault::UnsafeName`]; what the operating system reports.
    pub fn begin(&self, name: &str) -> Result<PartialFile, FileError> {
        if !is_output_name(name) {
            return Err(FileError::new(self.path.join(name), FileFault::UnsafeName));
        }
        if let Some((folder, _)) = name.split_once('/') {
            let folder = self.path.join(folder);
            match self.disk.create_directory(&folder) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                created => created.map_err(FileError::io(&folder))?,
            }
        }
        PartialFile::create(&*self.disk, &self.path, name)
    }

    /// Syncs a file to disk and records it.
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
    /// As [`begin`](Self::begin).
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        let mut file = self.begin(name)?;
        file.push(bytes)?;
        self.finish(file)
    }

    /// The finished files, in order.
    pub fn files(&self) -> &[FileRecord] {
        &self.files
    }

    /// Gives the directory its final name.
    ///
    /// # Errors
    /// [`OutputError::File`] if the directory cannot be synced; it is removed then. [`OutputError::NotRenamed`] if it is
    /// complete but cannot take its name: the output to replace is no longer as it was found, something has appeared at a
    /// free target, or the file system refuses. The directory is kept then. [`OutputError::File`] also if only the last step
    /// failed, which syncs the new name.
    pub fn commit(mut self) -> Result<(), OutputError> {
        let target = self.target.path();
        let folder = self.path.join(TEMPLATES_FOLDER);
        let has_folder = self.files.iter().any(|file| file.name.contains('/'));
        for directory in has_folder.then_some(&folder).into_iter().chain([&self.path]) {
            self.disk.sync_directory(directory).map_err(FileError::io(directory))?;
        }
        let renamed = self.take_name();
        // From here on, the partial name is that of the complete output if it could not be renamed, of the replaced output,
        // or free.
        self.obsolete = renamed.is_ok() && matches!(self.target.found(), Found::Output(_));
        renamed.map_err(|error| OutputError::NotRenamed {
            path: target.to_owned(),
            complete: self.path.clone(),
            error: Box::new(error),
        })?;
        Ok(self.disk.sync_directory(parent_of(target)).map_err(FileError::io(target))?)
    }

    /// Renames the directory to its target. An output that was there has the partial name afterwards.
    fn take_name(&self) -> Result<(), OutputError> {
        let target = self.target.path();
        let failed = FileError::io(target);
        match self.target.found() {
            Found::Nothing => {}
            Found::EmptyDirectory => self.disk.remove_empty(target).map_err(&failed)?,
            Found::Output(_) => {
                self.target.check_unchanged(&*self.disk)?;
                return match self.disk.exchange(&self.path, target) {
                    Err(error) if error.kind() == io::ErrorKind::Unsupported => self.exchange_by_renames(),
                    exchanged => Ok(exchanged.map_err(failed)?),
                };
            }
        }
        Ok(self.disk.rename(&self.path, target).map_err(failed)?)
    }

    /// Exchanges the partial name and the target in three renames. If the second fails, the output to replace is put back.
    fn exchange_by_renames(&self) -> Result<(), OutputError> {
        let target = self.target.path();
        let (failed, aside) = (FileError::io(target), Beside::Replaced.path(target));
        self.disk.rename(target, &aside).map_err(&failed)?;
        if let Err(error) = self.disk.rename(&self.path, target) {
            return Err(match self.disk.rename(&aside, target) {
                Ok(()) => failed(error).into(),
                Err(_) => OutputError::MovedAside { path: target.to_owned(), aside, error },
            });
        }
        let _removed_by_the_next_run = self.disk.rename(&aside, &self.path);
        Ok(())
    }
}

impl Drop for PartialDirectory {
    fn drop(&mut self) {
        if self.obsolete {
            let _removed_by_the_next_run = self.disk.remove_tree(&self.path);
        }
    }
}

impl fmt::Debug for PartialDirectory {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("PartialDirectory").field("path", &self.path).field("target", &self.target).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::partial_file::WORTH_A_THREAD_BYTES;
    use super::*;
    use crate::error::ErrorKind;
    use crate::output::disk::disk;
    use crate::output::receipt::RECEIPT;

    pub(super) fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn create(target: &Path) -> Result<PartialDirectory, OutputError> {
        PartialDirectory::create(disk(), target, Existing::Keep)
    }

    #[test]
    fn a_directory_appears_complete() {
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
    fn a_hash_does_not_depend_on_the_chunks() {
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
    fn a_dropped_directory_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let mut partial = create(&root.path().join("out")).unwrap();
        partial.write("file", b"text").unwrap();
        drop(partial);
        assert!(names(root.path()).is_empty());
    }

    #[test]
    fn only_an_empty_directory_is_replaced_by_default() {
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

    /// A complete output: `mine`, and the receipt that names it.
    fn written(out: &Path) {
        let mut partial = create(out).unwrap();
        partial.write("mine", b"mine").unwrap();
        let receipt = serde_json::json!({"files": partial.files()}).to_string();
        partial.write(RECEIPT, receipt.as_bytes()).unwrap();
        partial.commit().unwrap();
    }

    /// Where the complete output is that cannot take its name, and why.
    fn not_renamed(partial: PartialDirectory) -> (PathBuf, OutputError) {
        match partial.commit().unwrap_err() {
            OutputError::NotRenamed { complete, error, .. } => (complete, *error),
            error => panic!("{error}"),
        }
    }

    fn over(out: &Path, existing: Existing) -> Result<(), OutputError> {
        let mut partial = PartialDirectory::create(disk(), out, existing)?;
        partial.write("new", b"")?;
        partial.commit()
    }

    #[test]
    fn only_files_in_a_receipt_are_replaced_and_only_on_request() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        fs::create_dir(&out).unwrap();
        fs::write(out.join("mine"), "").unwrap();
        let foreign =
            |error: &OutputError, file: &str| matches!(error, OutputError::NotOurs { foreign, .. } if foreign == file);
        for existing in [Existing::Replace, Existing::Discard] {
            assert!(foreign(&over(&out, existing).unwrap_err(), "mine"), "there is no receipt");
            fs::write(out.join(RECEIPT), r#"{"files": []}"#).unwrap();
            assert!(foreign(&over(&out, existing).unwrap_err(), "mine"), "the receipt does not name it");
            fs::remove_file(out.join(RECEIPT)).unwrap();
        }
        fs::remove_file(out.join("mine")).unwrap();
        written(&out);
        assert!(matches!(over(&out, Existing::Keep), Err(OutputError::Exists { .. })));
        let mut partial = PartialDirectory::create(disk(), &out, Existing::Replace).unwrap();
        partial.write("new", b"").unwrap();
        assert_eq!(names(&out), [RECEIPT, "mine"], "the old output stays until the new one is complete");
        partial.commit().unwrap();
        assert_eq!(names(&out), ["new"]);
        assert_eq!(names(root.path()), ["out"]);
    }

    #[test]
    fn the_folder_of_templates_is_replaced_like_a_file() {
        const TEMPLATE: &str = "additional_chat_templates/tool_use.jinja";
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        let written = |existing| {
            let mut partial = PartialDirectory::create(disk(), &out, existing)?;
            for name in [TEMPLATE, "additional_chat_templates/rag.jinja"] {
                partial.write(name, name.as_bytes())?;
            }
            let receipt = serde_json::json!({"files": partial.files()}).to_string();
            partial.write(RECEIPT, receipt.as_bytes())?;
            partial.commit()
        };
        written(Existing::Keep).unwrap();
        assert_eq!(fs::read_to_string(out.join(TEMPLATE)).unwrap(), TEMPLATE);
        assert!(matches!(written(Existing::Keep), Err(OutputError::Exists { .. })));
        fs::remove_file(out.join(TEMPLATE)).unwrap();
        written(Existing::Replace).unwrap();
        assert!(out.join(TEMPLATE).exists(), "a missing file is no loss");
        fs::write(out.join(TEMPLATE), "mine").unwrap();
        assert!(matches!(written(Existing::Replace), Err(OutputError::Modified { .. })));
        written(Existing::Discard).unwrap();
        for stray in ["additional_chat_templates/stray.jinja", "additional_chat_templates/stray"] {
            fs::write(out.join(stray), "").unwrap();
            let error = written(Existing::Discard).unwrap_err();
            assert!(matches!(&error, OutputError::NotOurs { foreign, .. } if foreign == stray), "{error}");
            fs::remove_file(out.join(stray)).unwrap();
        }
        let partial = PartialDirectory::create(disk(), &out, Existing::Replace).unwrap();
        fs::write(out.join(TEMPLATE), "changed meanwhile").unwrap();
        let (_, error) = not_renamed(partial);
        assert!(matches!(&error, OutputError::Changed { name, .. } if name == TEMPLATE), "{error}");
    }

    #[test]
    fn no_file_is_written_outside_the_directory() {
        let root = tempfile::tempdir().unwrap();
        let mut partial = create(&root.path().join("out")).unwrap();
        for name in ["../escaped", "other/file", "additional_chat_templates/../../escaped.jinja", "/tmp/escaped"] {
            let error = partial.write(name, b"").unwrap_err();
            assert!(matches!(error.fault, FileFault::UnsafeName), "{error}");
        }
        partial.commit().unwrap();
        assert_eq!((names(root.path()), names(&root.path().join("out")).len()), (vec!["out".to_owned()], 0));
    }

    #[test]
    fn a_modified_file_is_discarded_only_on_request() {
        let root = tempfile::tempdir().unwrap();
        for (case, bytes) in ["longer than before", "MINE"].into_iter().enumerate() {
            let out = root.path().join(case.to_string());
            written(&out);
            fs::write(out.join("mine"), bytes).unwrap();
            let error = over(&out, Existing::Replace).unwrap_err();
            assert!(matches!(&error, OutputError::Modified { mismatches, .. } if mismatches.len() == 1), "{error}");
            assert!(error.to_string().contains(r#""mine" has "#), "{error}");
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert_eq!(fs::read_to_string(out.join("mine")).unwrap(), bytes);
            over(&out, Existing::Discard).unwrap();
            assert_eq!(names(&out), ["new"]);
        }
    }

    #[test]
    fn a_missing_file_is_no_loss() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        written(&out);
        fs::remove_file(out.join("mine")).unwrap();
        over(&out, Existing::Replace).unwrap();
        assert_eq!(names(&out), ["new"]);
    }

    #[test]
    fn a_directory_under_the_name_of_a_file_is_never_discarded() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        written(&out);
        fs::remove_file(out.join("mine")).unwrap();
        fs::create_dir(out.join("mine")).unwrap();
        for existing in [Existing::Replace, Existing::Discard] {
            assert!(matches!(over(&out, existing), Err(OutputError::NotOurs { .. })));
        }
    }

    #[test]
    fn an_output_that_changes_meanwhile_is_not_replaced() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        type Change = fn(&Path);
        let changes: [(&str, Change); 3] = [
            ("trained", |out| fs::write(out.join("trained"), "").unwrap()),
            ("mine", |out| {
                let file = fs::File::options().write(true).open(out.join("mine")).unwrap();
                file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
            }),
            ("mine", |out| fs::rename(out.join("mine"), out.join("moved")).unwrap()),
        ];
        for existing in [Existing::Replace, Existing::Discard] {
            for (changed, change) in changes {
                written(&out);
                let mut partial = PartialDirectory::create(disk(), &out, existing).unwrap();
                partial.write("new", b"").unwrap();
                change(&out);
                let (complete, error) = not_renamed(partial);
                assert!(matches!(&error, OutputError::Changed { name, .. } if name == changed), "{error}");
                assert_eq!(names(&complete), ["new"]);
                assert_eq!(names(root.path()).len(), 2);
                fs::remove_dir_all(&out).unwrap();
                fs::remove_dir_all(complete).unwrap();
            }
        }
    }

    #[test]
    fn a_directory_that_appears_at_the_target_is_kept_and_so_is_the_output() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        let mut partial = create(&out).unwrap();
        partial.write("file", b"").unwrap();
        fs::create_dir(&out).unwrap();
        fs::write(out.join("mine"), "kept").unwrap();
        let (complete, error) = not_renamed(partial);
        assert!(matches!(error, OutputError::File(_)), "{error}");
        assert_eq!((names(root.path()).len(), names(&complete)), (2, vec!["file".to_owned()]));
        assert_eq!(fs::read_to_string(out.join("mine")).unwrap(), "kept");
    }

    #[test]
    fn an_output_that_a_killed_run_moved_aside_is_put_back() {
        let root = tempfile::tempdir().unwrap();
        let (out, aside) = (root.path().join("out"), root.path().join("out.deepwide-replaced-12345"));
        written(&out);
        fs::rename(&out, &aside).unwrap();
        assert!(matches!(create(&out), Err(OutputError::Exists { .. })));
        assert_eq!(
            (names(root.path()), names(&out)),
            (vec!["out".to_owned()], vec![RECEIPT.to_owned(), "mine".to_owned()])
        );
    }

    #[test]
    fn an_output_that_a_living_run_moved_aside_stays_there() {
        let root = tempfile::tempdir().unwrap();
        let (out, aside) = (root.path().join("out"), root.path().join("out.deepwide-replaced-12345"));
        written(&out);
        let living = PartialDirectory::create(disk(), &out, Existing::Replace).unwrap();
        fs::rename(&out, &aside).unwrap();
        assert!(matches!(create(&out), Err(OutputError::Busy { .. })));
        assert!(aside.exists() && !out.exists());
        drop(living);
        assert!(matches!(create(&out), Err(OutputError::Exists { .. })));
    }

    #[test]
    fn an_output_that_was_replaced_before_the_run_was_killed_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let (out, aside) = (root.path().join("out"), root.path().join("out.deepwide-replaced-12345"));
        written(&out);
        written(&aside);
        fs::create_dir(root.path().join("out.deepwide-replaced-notes")).unwrap();
        let partial = PartialDirectory::create(disk(), &out, Existing::Replace).unwrap();
        assert_eq!(partial.leftovers(), [aside]);
        drop(partial);
        assert_eq!(names(root.path()), ["out", "out.deepwide-replaced-notes"]);
    }

    #[test]
    fn leftovers_are_removed_unless_a_process_holds_them() {
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
    }

    #[cfg(unix)]
    #[test]
    fn permissions_follow_the_umask() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let plain = root.path().join("plain");
        fs::write(&plain, "").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        fs::create_dir(root.path().join("plain directory")).unwrap();
        let mut partial = create(&root.path().join("our directory")).unwrap();
        partial.write("file", b"").unwrap();
        partial.commit().unwrap();
        assert_eq!(mode(&root.path().join("our directory")), mode(&root.path().join("plain directory")));
        assert_eq!(mode(&root.path().join("our directory/file")), mode(&plain));
    }
}
