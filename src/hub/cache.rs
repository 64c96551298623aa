//! The cache that is shared with Python's `huggingface_hub`: one layout, one set of locks.
//!
//! ```text
//! models--org--name/blobs/<etag>                   a file, by content: sha256 of Git LFS, else Git's own hash
//! models--org--name/blobs/<etag>.incomplete        a partial download
//! models--org--name/refs/main                      the commit of a branch or tag
//! models--org--name/snapshots/<commit>/config.json symbolic link to ../../blobs/<etag>
//! models--org--name/.no_exist/<commit>/<file>      the commit is known to lack this file
//! .locks/models--org--name/<etag>.lock             held while the blob is written
//! datasets--org--name/...                          the same for a data set
//! ```

use std::fs::{self, File, TryLockError};
use std::io;
#[cfg(unix)]
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::files::{missing, only_gguf};
use super::reference::{HubReference, is_hash};
use super::repo::Repo;
use crate::error::FileError;
use crate::formats::TOKENIZERS;
use crate::formats::hf::{INDEX, SINGLE};
use crate::output::disk::parent_of;

/// The cache of one repository.
pub(super) struct RepoCache {
    pub blobs: PathBuf,
    pub snapshots: PathBuf,
    refs: PathBuf,
    no_exist: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    pub fn new(cache: &Path, repo: Repo<'_>) -> Self {
        let name = repo.folder();
        let [blobs, snapshots, refs, no_exist] =
            ["blobs", "snapshots", "refs", ".no_exist"].map(|directory| cache.join(&name).join(directory));
        Self { blobs, snapshots, refs, no_exist, locks: cache.join(".locks").join(name) }
    }

    /// The path of a model: its directory, or the GGUF file that the reference names or that is all the model has. A model
    /// without a tokenizer counts only if its commit is known to have none, or if nothing may be downloaded.
    ///
    /// # Errors
    /// The first thing that is missing.
    pub fn find(&self, reference: &HubReference, offline: bool) -> Result<PathBuf, String> {
        let revision = reference.revision();
        let Some(commit) = self.commit(revision) else { return Err(format!("revision {revision}")) };
        let snapshot = self.snapshots.join(&commit);
        let gguf = reference.gguf().map(str::to_owned).or_else(|| self.only_gguf(&commit));
        if let Some(missing) = missing(&snapshot, gguf.as_deref()) {
            return Err(missing);
        }
        let has_tokenizer = || TOKENIZERS.iter().any(|name| snapshot.join(name).is_file());
        match gguf {
            Some(file) => Ok(snapshot.join(file)),
            None if offline || has_tokenizer() || self.is_absent(&commit, TOKENIZERS[0]) => Ok(snapshot),
            None => Err(TOKENIZERS[0].to_owned()),
        }
    }

    /// The commit that a revision stood for when it was last resolved, if its snapshot is here.
    pub fn commit(&self, revision: &str) -> Option<String> {
        let commit = match is_hash(revision, 40) {
            true => revision.to_owned(),
            false => fs::read_to_string(self.refs.join(revision)).ok()?.trim().to_owned(),
        };
        (is_hash(&commit, 40) && self.snapshots.join(&commit).is_dir()).then_some(commit)
    }

    /// The only GGUF of a snapshot whose commit is known to have no safetensors. Beside safetensors, a GGUF must be named.
    fn only_gguf(&self, commit: &str) -> Option<String> {
        let no_safetensors = [SINGLE, INDEX].iter().all(|name| self.is_absent(commit, name));
        let entries = fs::read_dir(self.snapshots.join(commit)).ok().filter(|_| no_safetensors)?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        only_gguf(&names.collect()).map(str::to_owned)
    }

    /// Whether a commit is known to lack a file.
    pub fn is_absent(&self, commit: &str, file: &str) -> bool {
        self.no_exist.join(commit).join(file).is_file()
    }

    /// Takes the lock of a blob, which `huggingface_hub` respects too. Calls `waiting` before it waits for another process.
    pub fn lock(&self, etag: &str, waiting: impl FnOnce()) -> Result<File, FileError> {
        create_directories(&self.locks)?;
        let path = self.locks.join(format!("{etag}.lock"));
        let file = File::options().append(true).create(true).open(&path).map_err(FileError::io(&path))?;
        let taken = match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                waiting();
                file.lock()
            }
            other => other.map_err(io::Error::from),
        };
        match taken {
            // Without locks, hashes still show whether two processes wrote one file.
            Err(error) if error.kind() != io::ErrorKind::Unsupported => Err(FileError::io(&path)(error)),
            _ => Ok(file),
        }
    }

    /// Links `file` of a snapshot to a blob.
    pub fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), FileError> {
        let (pointer, blob) = (self.snapshots.join(commit).join(file), self.blobs.join(etag));
        let ups = "../".repeat(file.split('/').count() + 1);
        let target = PathBuf::from(format!("{ups}blobs/{etag}"));
        if fs::read_link(&pointer).is_ok_and(|leads_to| leads_to == target) {
            return Ok(());
        }
        // Without symbolic links: a hard link, or a copy.
        let linked = |name: &Path| symlink(&target, name).or_else(|_| fs::hard_link(&blob, name));
        place(&pointer, |name| linked(name).or_else(|_| fs::copy(&blob, name).map(drop)))
    }

    /// Records the commit of a branch or tag.
    pub fn remember(&self, revision: &str, commit: &str) -> Result<(), FileError> {
        if is_hash(revision, 40) { Ok(()) } else { place(&self.refs.join(revision), |name| fs::write(name, commit)) }
    }

    /// Records that a commit lacks a file.
    pub fn remember_absent(&self, commit: &str, file: &str) -> Result<(), FileError> {
        place(&self.no_exist.join(commit).join(file), |name| fs::write(name, ""))
    }
}

/// Creates a file and its directory. Renamed into place, so that another process sees the old file or the new one.
fn place(path: &Path, create: impl FnMut(&Path) -> io::Result<()>) -> Result<(), FileError> {
    let directory = parent_of(path);
    create_directories(directory)?;
    let named = tempfile::Builder::new().make_in(directory, create).map_err(FileError::io(path))?;
    named.persist(path).map(drop).map_err(|failed| FileError::io(path)(failed.error))
}

pub(super) fn create_directories(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(FileError::io(path))
}

#[cfg(not(unix))]
fn symlink(_target: &Path, _pointer: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
