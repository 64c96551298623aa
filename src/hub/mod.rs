//! The Hugging Face Hub as a source of checkpoints, by way of the cache that is shared with Python's `huggingface_hub`.
//!
//! [`cached`] looks without a network; [`download`] pins a revision to a commit first, then brings the files that a model
//! needs (config, tokenizer, safetensors or one GGUF; never a pickle) into the cache. A file has its name only when it is
//! whole: its size always checked, its sha256 where the Hub tells one. What is cut is resumed.
//!
//! Protocol and cache layout: <https://huggingface.co/docs/hub/local-cache> and the Hub's answers.

mod address;
mod cache;
mod client;
mod error;
mod files;
mod ggufs;
mod partial;
mod reference;
mod retry_after;
mod settings;
mod transfer;
mod watched;

use std::path::PathBuf;
use std::time::Duration;

pub use error::HubError;
pub use reference::HubReference;
pub use settings::{HubSettings, Patience, Token};

use crate::formats::TOKENIZERS;
use crate::output::disk::disk;
use cache::RepoCache;
use client::Client;
use transfer::Transfer;

/// What is happening, for somebody who watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// The revision means this commit.
    Resolved {
        /// 40 hexadecimal digits.
        commit: &'a str,
    },
    /// The next file.
    File {
        /// Its path in the repository.
        name: &'a str,
        /// Its size, if the Hub tells.
        size_bytes: Option<u64>,
    },
    /// So much of the file is on disk; less than before if it had to begin again.
    Arrived {
        /// Bytes from its start.
        bytes: u64,
    },
    /// Nothing can be done for a while.
    Waiting {
        /// Why.
        reason: &'a str,
        /// How long, if that is known.
        wait: Option<Duration>,
    },
}

/// Where the cache has the model, if it has all that loading it takes; the network is not used.
///
/// The path is a directory, or the GGUF file that the reference names or that is all that the model has. A checkpoint without a tokenizer counts only where
/// its commit is known to have none, or where nothing could be fetched.
pub fn cached(reference: &HubReference, settings: &HubSettings) -> Option<PathBuf> {
    let snapshot = RepoCache::new(&settings.cache, reference.repo()).snapshot(reference)?;
    let whole = snapshot.missing.is_none() && (snapshot.tokenizer_settled || settings.offline);
    whole.then(|| path_of(snapshot.path, snapshot.gguf.as_deref()))
}

/// Brings the model into the cache as it is on the Hub now, and gives its path there, as [`cached`] does. Files that the
/// cache has already are not fetched again.
///
/// # Errors
/// Any [`HubError`]; [`HubError::Offline`] if the network may not be used and the cache lacks something.
pub fn download(
    reference: &HubReference,
    settings: &HubSettings,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf, HubError> {
    let cache = RepoCache::new(&settings.cache, reference.repo());
    if settings.offline {
        return cached(reference, settings).ok_or_else(|| offline(reference, settings, &cache));
    }
    let client = Client::new(settings)?;
    let (commit, listed) = client.resolve(reference, progress)?;
    progress(Progress::Resolved { commit: &commit });
    let (small, mut weights) = files::wanted(reference, &commit, &listed)?;
    let blobs = cache.create()?;
    let transfer =
        Transfer { client: &client, cache: &cache, repo: reference.repo(), commit: &commit, verify: settings.verify };
    for file in &small {
        transfer.fetch(file, transfer.content(file, progress)?, progress)?;
    }
    let snapshot = cache.snapshot_of(&commit);
    if weights.is_empty() {
        weights = shards(reference, &commit, &snapshot, &listed)?;
    }
    let mut contents = Vec::with_capacity(weights.len());
    let mut needed_bytes = 0u64;
    for file in &weights {
        let content = transfer.content(file, progress)?;
        needed_bytes = needed_bytes.saturating_add(transfer.missing_bytes(&content)?);
        contents.push(content);
    }
    let free_bytes = disk().free_bytes(&blobs).map_err(HubError::io(&blobs))?;
    if needed_bytes > free_bytes {
        return Err(HubError::NoSpace { path: blobs, free_bytes, needed_bytes });
    }
    for (file, content) in weights.iter().zip(contents) {
        transfer.fetch(file, content, progress)?;
    }
    let gguf = weights.first().filter(|file| file.ends_with(".gguf")).map(String::as_str);
    if gguf.is_some() && reference.gguf().is_none() {
        [files::SINGLE, files::INDEX].iter().try_for_each(|name| cache.remember_absent(&commit, name))?;
    }
    if gguf.is_none() && !TOKENIZERS.iter().any(|name| listed.contains(*name)) {
        cache.remember_absent(&commit, TOKENIZERS[0])?;
    }
    // Last, so that a branch never leads to half of a model.
    cache.remember(reference.revision(), &commit)?;
    Ok(path_of(snapshot, gguf))
}

/// The shards that the index of a snapshot names, all of which must be in the repository.
fn shards(
    reference: &HubReference,
    commit: &str,
    snapshot: &std::path::Path,
    listed: &std::collections::BTreeSet<String>,
) -> Result<Vec<String>, HubError> {
    let (repo, file) = (reference.repo().to_owned(), files::INDEX.to_owned());
    let Some(shards) = files::read_index(&snapshot.join(files::INDEX)) else {
        let expected = "an object with a weight_map of at least one shard";
        return Err(HubError::Answer { url: format!("{repo}/{file}"), found: "something else".into(), expected });
    };
    for shard in &shards {
        if !files::is_file_name(shard) || !shard.ends_with(".safetensors") {
            return Err(HubError::UnsafeName { repo, name: shard.clone() });
        }
        if !listed.contains(shard) {
            return Err(HubError::NoFile { repo, file: shard.clone(), commit: commit.to_owned() });
        }
    }
    Ok(shards)
}

fn offline(reference: &HubReference, settings: &HubSettings, cache: &RepoCache) -> HubError {
    let missing = match cache.snapshot(reference) {
        Some(snapshot) => snapshot.missing.unwrap_or_default(),
        None => format!("revision {}", reference.revision()),
    };
    HubError::Offline { reference: reference.to_string(), cache: settings.cache.clone(), missing }
}

fn path_of(snapshot: PathBuf, gguf: Option<&str>) -> PathBuf {
    match gguf {
        Some(file) => snapshot.join(file),
        None => snapshot,
    }
}
