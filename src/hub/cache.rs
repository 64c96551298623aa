//! The cache that is shared with Python's `huggingface_hub`: one layout, one set of locks.
//!
//! ```text
//! models--org--name/blobs/<etag>                   a file, by content: sha256 of Git LFS, else Git's own hash
//! models--org--name/blobs/<etag>.incomplete        a partial download
//! models--org--name/refs/main                      the commit of a branch or tag
//! models--org--name/snapshots/<commit>/config.json symbolic link to ../../blobs/<etag>
//! models--org--name/.no_exist/<commit>/<file>      the commit is known to lack this file
//! .locks/models--org--name/<etag>.lock             held while the blob is written
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::files::missing;
use super::names::{INDEX, SINGLE, is_commit, only_gguf};
use super::reference::HubReference;
use crate::error::FileError;
use crate::formats::TOKENIZERS;
use crate::output::disk::parent_of;

/// The cache of one model.
#[derive(Debug)]
pub(super) struct RepoCache {
    directory: PathBuf,
    locks: PathBuf,
}

/// A snapshot in the cache, complete or not.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// Its directory.
    pub path: PathBuf,
    /// The GGUF of the reference, named or the only one.
    pub gguf: Option<String>,
    /// The first missing file of those that loading needs.
    pub missing: Option<String>,
    /// Whether it has a tokenizer, or its commit is known to have none.
    pub tokenizer_settled: bool,
}

impl RepoCache {
    pub fn new(cache: &Path, repo: &str) -> Self {
        let name = format!("models--{}", repo.replace('/', "--"));
        Self { directory: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    /// The snapshot of a reference; `None` if the cache has none of its revision.
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

    /// The only GGUF of a snapshot whose commit is known to have no safetensors. Beside safetensors, a GGUF must be named.
    fn only_gguf(&self, commit: &str) -> Option<String> {
        if !self.is_absent(commit, SINGLE) || !self.is_absent(commit, INDEX) {
            return None;
        }
        let entries = fs::read_dir(self.snapshot_of(commit)).ok()?;
        let names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        only_gguf(names.iter().map(String::as_str)).map(str::to_owned)
    }

    /// Whether a commit is known to lack a file.
    fn is_absent(&self, commit: &str, file: &str) -> bool {
        self.directory.join(".no_exist").join(commit).join(file).is_file()
    }

    /// The directory of a commit.
    pub fn snapshot_of(&self, commit: &str) -> PathBuf {
        self.directory.join("snapshots").join(commit)
    }

    /// The path of a content.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.directory.join("blobs").join(etag)
    }

    /// The path of a content while it is downloaded.
    pub fn incomplete(&self, etag: &str) -> PathBuf {
        self.directory.join("blobs").join(format!("{etag}.incomplete"))
    }

    /// Creates the directory of blobs.
    pub fn create(&self) -> Result<PathBuf, FileError> {
        let blobs = self.directory.join("blobs");
        create_directories(&blobs)?;
        Ok(blobs)
    }

    /// Takes the lock of a blob, which `huggingface_hub` respects too. Calls `waiting` before it waits for another process.
    pub fn lock(&self, etag: &str, waiting: impl FnOnce()) -> Result<File, FileError> {
        create_directories(&self.locks)?;
        let path = self.locks.join(format!("{etag}.lock"));
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(FileError::io(&path))?;
        let taken = match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                waiting();
                file.lock()
            }
            Err(TryLockError::Error(error)) => Err(error),
            Ok(()) => Ok(()),
        };
        match taken {
            // Without locks, hashes still show whether two processes wrote one file.
            Err(error) if error.kind() != io::ErrorKind::Unsupported => Err(FileError::io(&path)(error)),
            _ => Ok(file),
        }
    }

    /// Links `file` of a snapshot to a blob.
    pub fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), FileError> {
        let pointer = self.snapshot_of(commit).join(file);
        let directory = parent_of(&pointer);
        create_directories(directory)?;
        let ups = "../".repeat(file.split('/').count() + 1);
        let target = PathBuf::from(format!("{ups}blobs/{etag}"));
        if fs::read_link(&pointer).is_ok_and(|leads_to| leads_to == target) {
            return Ok(());
        }
        // Renamed into place, so that another process sees the old link or the new one.
        let blob = self.blob(etag);
        let named = tempfile::Builder::new().make_in(directory, |name| {
            // Without symbolic links: a hard link, or a copy.
            symlink(&target, name).or_else(|_| fs::hard_link(&blob, name)).or_else(|_| fs::copy(&blob, name).map(drop))
        });
        let named = named.map_err(FileError::io(&pointer))?;
        named.persist(&pointer).map(drop).map_err(|failed| FileError::io(&pointer)(failed.error))
    }

    /// Records the commit of a branch or tag.
    pub fn remember(&self, revision: &str, commit: &str) -> Result<(), FileError> {
        if revision == commit {
            return Ok(());
        }
        let path = self.directory.join("refs").join(revision);
        let directory = parent_of(&path);
        create_directories(directory)?;
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.suffix(".tmp").tempfile_in(directory).map_err(FileError::io(directory))?;
        file.write_all(commit.as_bytes()).map_err(FileError::io(&path))?;
        file.persist(&path).map(drop).map_err(|failed| FileError::io(&path)(failed.error))
    }

    /// Records that a commit lacks a file.
    pub fn remember_absent(&self, commit: &str, file: &str) -> Result<(), FileError> {
        let directory = self.directory.join(".no_exist").join(commit);
        create_directories(&directory)?;
        let path = directory.join(file);
        fs::write(&path, "").map_err(FileError::io(&path))
    }
}

fn create_directories(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(FileError::io(path))
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
    fn a_cache_of_python_is_found_by_branch_and_commit() {
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
    fn a_commit_may_be_known_to_have_no_tokenizer() {
        let root = tempfile::tempdir().unwrap();
        let model = python_cache(root.path());
        fs::remove_file(model.join("snapshots").join(COMMIT).join("tokenizer.json")).unwrap();
        assert!(!snapshot(root.path(), "org/name").unwrap().tokenizer_settled);
        RepoCache::new(root.path(), "org/name").remember_absent(COMMIT, TOKENIZERS[0]).unwrap();
        assert!(snapshot(root.path(), "org/name").unwrap().tokenizer_settled);
    }

    #[test]
    fn a_ref_must_be_a_commit() {
        let root = tempfile::tempdir().unwrap();
        let refs = root.path().join("models--org--name/refs");
        fs::create_dir_all(&refs).unwrap();
        fs::write(refs.join("main"), "../../..").unwrap();
        assert!(snapshot(root.path(), "org/name").is_none());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_relative_and_replaces_a_wrong_one() {
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
    fn concurrent_links_of_one_file_leave_one_link() {
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
    fn a_revision_with_a_slash_is_a_path_below_refs() {
        let root = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(root.path(), "org/name");
        cache.remember("refs/pr/1", COMMIT).unwrap();
        cache.remember("refs/pr/1", COMMIT).unwrap();
        let refs = root.path().join("models--org--name/refs/refs/pr");
        assert_eq!(fs::read_to_string(refs.join("1")).unwrap(), COMMIT);
        assert_eq!(fs::read_dir(refs).unwrap().count(), 1, "no partial file is left");
    }
}
