//! Output that is there whole or not at all.
//!
//! A directory is built beside its final place and renamed into it; a file likewise. Everything is on disk
//! (`fsync`) before the rename, so neither a failure nor a power cut leaves half of an output under its name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::{Builder, TempDir};

use super::WeightError;

/// A directory under construction, `<target>.partial-<random>`; dropped before [`commit`](Self::commit), it vanishes.
#[derive(Debug)]
pub struct PartialDirectory {
    directory: TempDir,
    target: PathBuf,
}

impl PartialDirectory {
    /// An empty directory beside `target`, whose parent must exist.
    ///
    /// # Errors
    /// [`WeightError::OutputExists`] if `target` is anything but absent or an empty directory;
    /// [`WeightError::NotFound`] if its parent is absent; [`WeightError::Io`].
    pub fn create(target: &Path) -> Result<Self, WeightError> {
        if !is_free(target).map_err(WeightError::io(target))? {
            return Err(WeightError::OutputExists { path: target.to_owned() });
        }
        let parent = parent_of(target);
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let prefix = format!("{name}.partial-");
        let mut builder = Builder::new();
        builder.prefix(&prefix).rand_bytes(8);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
        let directory = builder.tempdir_in(parent).map_err(WeightError::io(parent))?;
        Ok(Self { directory, target: target.to_owned() })
    }

    /// Where to put the files meanwhile.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Brings every file to disk and gives the directory its name.
    ///
    /// # Errors
    /// [`WeightError::Io`], also if something has appeared at the target since. Nothing is left then, unless it was the
    /// last step that failed, which makes the new name itself durable.
    pub fn commit(self) -> Result<(), WeightError> {
        sync_tree(self.path()).map_err(WeightError::io(self.path()))?;
        let renamed = match fs::remove_dir(&self.target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => fs::rename(self.path(), &self.target),
        };
        renamed.map_err(WeightError::io(&self.target))?;
        let Self { directory, target } = self;
        // The directory has moved: there is nothing left for its guard to delete.
        let _moved = directory.keep();
        sync_directory(parent_of(&target)).map_err(WeightError::io(&target))
    }
}

/// Replaces the file at `path` by one with these bytes, or leaves it as it was.
///
/// # Errors
/// [`WeightError::NotFound`] if the parent of `path` is absent; [`WeightError::Io`].
pub fn write_file_atomically(path: &Path, bytes: &[u8]) -> Result<(), WeightError> {
    let parent = parent_of(path);
    let mut builder = Builder::new();
    builder.prefix(".partial-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(parent).map_err(WeightError::io(parent))?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(WeightError::io(path))?;
    file.persist(path).map_err(|failed| WeightError::io(path)(failed.error))?;
    sync_directory(parent).map_err(WeightError::io(parent))
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn is_free(target: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(target.file_name().is_some()),
        Err(error) => Err(error),
        Ok(metadata) => Ok(metadata.is_dir() && fs::read_dir(target)?.next().is_none()),
    }
}

fn sync_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            OpenOptions::new().append(true).open(entry.path())?.sync_all()?;
        }
    }
    sync_directory(directory)
}

#[cfg(unix)]
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(not(unix))]
fn sync_directory(_directory: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_directory_appears_whole_under_its_name() {
        let root = tempfile::tempdir().unwrap();
        let partial = PartialDirectory::create(&root.path().join("out")).unwrap();
        fs::create_dir(partial.path().join("inner")).unwrap();
        fs::write(partial.path().join("inner/file"), "text").unwrap();
        let meanwhile = names(root.path());
        assert!(meanwhile.len() == 1 && meanwhile[0].starts_with("out.partial-"), "{meanwhile:?}");
        partial.commit().unwrap();
        assert_eq!(names(root.path()), ["out"]);
        assert_eq!(fs::read_to_string(root.path().join("out/inner/file")).unwrap(), "text");
    }

    #[test]
    fn a_directory_that_is_not_committed_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let partial = PartialDirectory::create(&root.path().join("out")).unwrap();
        fs::write(partial.path().join("file"), "text").unwrap();
        drop(partial);
        assert!(names(root.path()).is_empty());
    }

    #[test]
    fn only_an_empty_directory_is_taken_over() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        fs::create_dir(&out).unwrap();
        PartialDirectory::create(&out).unwrap().commit().unwrap();
        fs::write(out.join("mine"), "").unwrap();
        assert!(matches!(PartialDirectory::create(&out), Err(WeightError::OutputExists { .. })));
        assert!(matches!(PartialDirectory::create(&out.join("mine")), Err(WeightError::OutputExists { .. })));
        assert!(matches!(PartialDirectory::create(Path::new("/")), Err(WeightError::OutputExists { .. })));
        assert_eq!(names(root.path()), ["out"]);
    }

    #[test]
    fn what_appears_at_the_target_meanwhile_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        let partial = PartialDirectory::create(&out).unwrap();
        fs::create_dir(&out).unwrap();
        fs::write(out.join("mine"), "kept").unwrap();
        assert!(matches!(partial.commit(), Err(WeightError::Io { .. })));
        assert_eq!(names(root.path()), ["out"]);
        assert_eq!(fs::read_to_string(out.join("mine")).unwrap(), "kept");
    }

    #[test]
    fn a_missing_parent_is_named() {
        let root = tempfile::tempdir().unwrap();
        let error = PartialDirectory::create(&root.path().join("absent/out")).unwrap_err();
        assert!(matches!(&error, WeightError::NotFound { path } if path.ends_with("absent")), "{error}");
        let error = write_file_atomically(&root.path().join("absent/file"), b"").unwrap_err();
        assert!(matches!(&error, WeightError::NotFound { path } if path.ends_with("absent")), "{error}");
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
        PartialDirectory::create(&root.path().join("our directory")).unwrap().commit().unwrap();
        assert_eq!(mode(&root.path().join("our directory")), mode(&root.path().join("plain directory")));
    }
}
