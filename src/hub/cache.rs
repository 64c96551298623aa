//! The cache that is shared with Python's `huggingface_hub`: one layout, one set of locks.
//!
//! ```text
//! models--org--name/blobs/<etag>                   a file, by content: sha256 of Git LFS, else Git's own hash
//! models--org--name/blobs/<etag>.incomplete        one on its way
//! models--org--name/refs/main                      the commit that a branch or tag led to
//! models--org--name/snapshots/<commit>/config.json symbolic link to ../../blobs/<etag>
//! models--org--name/.no_exist/<commit>/<file>      the commit is known to lack this file
//! .locks/models--org--name/<etag>.lock             held by who writes the blob
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::files::{INDEX, SINGLE, missing};
use super::reference::is_commit;
use super::{HubError, HubReference, ggufs};
use crate::formats::TOKENIZERS;

/// The part of the cache that belongs to one model.
#[derive(Debug)]
pub(super) struct RepoCache {
    directory: PathBuf,
    locks: PathBuf,
}

/// A snapshot in the cache, whole or not.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// Its directory.
    pub path: PathBuf,
    /// The GGUF that is meant, named or the only one.
    pub gguf: Option<String>,
    /// The first file that it lacks to be loaded.
    pub missing: Option<String>,
    /// Whether it has a tokenizer, or its commit is known to have none.
    pub tokenizer_settled: bool,
}

impl RepoCache {
    pub fn new(cache: &Path, repo: &str) -> Self {
        let name = format!("models--{}", repo.replace('/', "--"));
        Self { directory: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    /// The snapshot that the cache has of a reference; `None` if its revision leads to none.
    pub fn snapshot(&self, reference: &HubReference) -> Option<Snapshot> {
        let revision = reference.revision();
        let commit = match is_commit(revision) {
            true => revision.to_owned(),
            false => fs::read_to_string(self.directory.join("refs").join(revision)).ok()?.trim().to_owned(),
        };
        let path = self.snapshot_of(&commit);
        if !is_commit(&commit) || !path.is_dir() {
            return None;
        }
        let gguf = reference.gguf().map(str::to_owned).or_else(|| self.only_gguf(&commit));
        let missing = missing(&path, gguf.as_deref());
        let known_absent = self.is_absent(&commit, TOKENIZERS[0]);
        let has_tokenizer = TOKENIZERS.iter().any(|name| path.join(name).is_file());
        let tokenizer_settled = gguf.is_some() || has_tokenizer || known_absent;
        Some(Snapshot { path, gguf, missing, tokenizer_settled })
    }

    /// The only GGUF of a snapshot whose commit is known to have no safetensors: elsewhere it is but one more file.
    fn only_gguf(&self, commit: &str) -> Option<String> {
        if !self.is_absent(commit, SINGLE) || !self.is_absent(commit, INDEX) {
            return None;
        }
        let entries = fs::read_dir(self.snapshot_of(commit)).ok()?;
        let names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        ggufs::only(names.iter().map(String::as_str)).map(str::to_owned)
    }

    /// Whether a commit is known to lack a file.
    fn is_absent(&self, commit: &str, file: &str) -> bool {
        self.directory.join(".no_exist").join(commit).join(file).is_file()
    }

    /// Where the files of a commit are.
    pub fn snapshot_of(&self, commit: &str) -> PathBuf {
        self.directory.join("snapshots").join(commit)
    }

    /// Where a file of this content is.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.directory.join("blobs").join(etag)
    }

    /// Where a file of this content is put while it arrives.
    pub fn incomplete(&self, etag: &str) -> PathBuf {
        self.directory.join("blobs").join(format!("{etag}.incomplete"))
    }

    /// Makes the directories that blobs go to.
    pub fn create(&self) -> Result<PathBuf, HubError> {
        let blobs = self.directory.join("blobs");
        create_directories(&blobs)?;
        Ok(blobs)
    }

    /// Waits until nobody else writes the blob, `huggingface_hub` included; `waiting` is called if somebody does.
    pub fn lock(&self, etag: &str, waiting: impl FnOnce()) -> Result<File, HubError> {
        create_directories(&self.locks)?;
        let path = self.locks.join(format!("{etag}.lock"));
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(HubError::io(&path))?;
        let taken = match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                waiting();
                file.lock()
            }
            Err(TryLockError::Error(error)) => Err(error),
            Ok(()) => Ok(()),
        };
        match taken {
            // Without locks, hashes still tell whether two have written one file.
            Err(error) if error.kind() != io::ErrorKind::Unsupported => Err(HubError::io(&path)(error)),
            _ => Ok(file),
        }
    }

    /// Makes `file` of the snapshot lead to the blob.
    pub fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), HubError> {
        let pointer = self.snapshot_of(commit).join(file);
        let directory = pointer.parent().unwrap_or(&pointer);
        create_directories(directory)?;
        let ups = "../".repeat(file.split('/').count() + 1);
        let target = PathBuf::from(format!("{ups}blobs/{etag}"));
        if fs::read_link(&pointer).is_ok_and(|leads_to| leads_to == target) {
            return Ok(());
        }
        // Renamed into its place: whoever links or reads the same file meanwhile sees one link or the other.
        let blob = self.blob(etag);
        let named = tempfile::Builder::new().make_in(directory, |name| {
            // A file system without symbolic links: another name for the file, or a copy of it.
            symlink(&target, name).or_else(|_| fs::hard_link(&blob, name)).or_else(|_| fs::copy(&blob, name).map(drop))
        });
        let named = named.map_err(HubError::io(&pointer))?;
        named.persist(&pointer).map(drop).map_err(|failed| HubError::io(&pointer)(failed.error))
    }

    /// Remembers which commit a branch or tag led to.
    pub fn remember(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if revision == commit {
            return Ok(());
        }
        let path = self.directory.join("refs").join(revision);
        let directory = path.parent().unwrap_or(&path);
        create_directories(directory)?;
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.suffix(".tmp").tempfile_in(directory).map_err(HubError::io(directory))?;
        file.write_all(commit.as_bytes()).map_err(HubError::io(&path))?;
        file.persist(&path).map(drop).map_err(|failed| HubError::io(&path)(failed.error))
    }

    /// Remembers that a commit lacks a file.
    pub fn remember_absent(&self, commit: &str, file: &str) -> Result<(), HubError> {
        let directory = self.directory.join(".no_exist").join(commit);
        create_directories(&directory)?;
        let path = directory.join(file);
        fs::write(&path, "").map_err(HubError::io(&path))
    }
}

fn create_directories(path: &Path) -> Result<(), HubError> {
    fs::create_dir_all(path).map_err(HubError::io(path))
}

#[cfg(unix)]
fn symlink(target: &Path, pointer: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, pointer)
}

#[cfg(not(unix))]
fn symlink(_target: &Path, _pointer: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// The cache as `huggingface_hub` 2.4 leaves it after `snapshot_download("org/name")`.
    fn python_cache(root: &Path) -> PathBuf {
        let model = root.join("models--org--name");
        let snapshot = model.join("snapshots").join(COMMIT);
        for directory in [&model.join("blobs"), &model.join("refs"), &snapshot] {
            fs::create_dir_all(directory).unwrap();
        }
        fs::write(model.join("refs/main"), COMMIT).unwrap();
        for (name, etag) in [("config.json", "c0"), ("model.safetensors", "a1"), ("tokenizer.json", "b2")] {
            fs::write(model.join("blobs").join(etag), name).unwrap();
            symlink(&PathBuf::from("../../blobs").join(etag), &snapshot.join(name)).unwrap();
        }
        model
    }

    fn snapshot(root: &Path, reference: &str) -> Option<Snapshot> {
        RepoCache::new(root, "org/name").snapshot(&reference.parse().unwrap())
    }

    #[cfg(unix)]
    #[test]
    fn what_python_has_cached_is_found_by_branch_and_by_commit() {
        let root = tempfile::tempdir().unwrap();
        let model = python_cache(root.path());
        for reference in ["org/name".to_owned(), format!("org/name@{COMMIT}")] {
            let found = snapshot(root.path(), &reference).unwrap();
            assert_eq!(found.path, model.join("snapshots").join(COMMIT));
            assert!(found.missing.is_none() && found.tokenizer_settled, "{found:?}");
        }
        assert!(snapshot(root.path(), "org/name@other").is_none());
        assert_eq!(snapshot(root.path(), "org/name/x.gguf").unwrap().missing.unwrap(), "x.gguf");
        fs::remove_file(model.join("blobs/a1")).unwrap();
        assert_eq!(snapshot(root.path(), "org/name").unwrap().missing.unwrap(), "model.safetensors");
    }

    #[cfg(unix)]
    #[test]
    fn a_snapshot_without_tokenizer_is_settled_once_the_commit_is_known_to_have_none() {
        let root = tempfile::tempdir().unwrap();
        let model = python_cache(root.path());
        fs::remove_file(model.join("snapshots").join(COMMIT).join("tokenizer.json")).unwrap();
        assert!(!snapshot(root.path(), "org/name").unwrap().tokenizer_settled);
        RepoCache::new(root.path(), "org/name").remember_absent(COMMIT, TOKENIZERS[0]).unwrap();
        assert!(snapshot(root.path(), "org/name").unwrap().tokenizer_settled);
    }

    #[test]
    fn a_ref_that_is_no_commit_leads_nowhere() {
        let root = tempfile::tempdir().unwrap();
        let refs = root.path().join("models--org--name/refs");
        fs::create_dir_all(&refs).unwrap();
        fs::write(refs.join("main"), "../../..").unwrap();
        assert!(snapshot(root.path(), "org/name").is_none());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_relative_whatever_the_depth_of_the_file_and_replaces_a_wrong_one() {
        let root = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(root.path(), "org/name");
        cache.create().unwrap();
        for etag in ["c0", "c1"] {
            fs::write(cache.blob(etag), etag).unwrap();
            for file in ["x.gguf", "a/b/x.gguf"] {
                cache.link(COMMIT, file, etag).unwrap();
                let pointer = cache.snapshot_of(COMMIT).join(file);
                assert_eq!(fs::read_to_string(&pointer).unwrap(), etag);
                assert!(fs::read_link(&pointer).unwrap().is_relative());
            }
        }
        let top = fs::read_link(cache.snapshot_of(COMMIT).join("x.gguf")).unwrap();
        assert_eq!(top, Path::new("../../blobs/c1"));
    }

    #[test]
    fn many_that_link_one_file_at_once_leave_one_link_to_a_whole_blob() {
        let root = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(root.path(), "org/name");
        cache.create().unwrap();
        for round in 0..50 {
            let (etag, file) = (format!("c{round}"), format!("x{round}.gguf"));
            fs::write(cache.blob(&etag), &etag).unwrap();
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| cache.link(COMMIT, &file, &etag).unwrap());
                }
            });
            assert_eq!(fs::read_to_string(cache.snapshot_of(COMMIT).join(&file)).unwrap(), etag);
        }
        assert_eq!(fs::read_dir(cache.snapshot_of(COMMIT)).unwrap().count(), 50, "nothing else is left");
    }

    #[test]
    fn a_revision_with_a_slash_is_remembered_below_refs() {
        let root = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(root.path(), "org/name");
        cache.remember("refs/pr/1", COMMIT).unwrap();
        cache.remember("refs/pr/1", COMMIT).unwrap();
        let refs = root.path().join("models--org--name/refs/refs/pr");
        assert_eq!(fs::read_to_string(refs.join("1")).unwrap(), COMMIT);
        assert_eq!(fs::read_dir(refs).unwrap().count(), 1, "nothing half-written is left");
    }
}
