//! The Hugging Face Hub as a source of checkpoints, through the cache that it shares with Python's `huggingface_hub`.
//!
//! [`cached`] looks without a network. [`download`] resolves a revision to a commit, then downloads what a model needs: config,
//! tokenizer, and safetensors or one GGUF; never a pickle. A file gets its name only when it is complete: its size is always
//! checked, its sha256 if the hub gives one. Interrupted downloads resume.
//!
//! Protocol and cache layout: <https://huggingface.co/docs/hub/local-cache>.
//!
//! The official crate hf-hub 1.0 restarts interrupted files from the beginning, checks neither size nor sha256, and has no
//! offline switch. It also brings tokio, reqwest, hyper and the Xet client, 138 crates more than this crate has.

mod address;
mod cache;
mod client;
mod error;
mod files;
mod lookup;
mod names;
mod partial;
mod progress;
mod reference;
mod refusal;
mod response;
mod retry;
mod settings;
mod transfer;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub use error::HubError;
pub use progress::Progress;
pub use reference::HubReference;
pub use settings::{HubSettings, Patience, Token};

use crate::error::FileError;
use crate::formats::TOKENIZERS;
use crate::output::disk::disk;
use cache::RepoCache;
use client::Client;
use names::{INDEX, SINGLE, is_file_name};
use transfer::Transfer;

/// The path of a model in the cache, if the cache has all that loading it takes. Uses no network.
///
/// The path is a directory, or the GGUF file that the reference names or that is all the model has. A checkpoint without a
/// tokenizer counts only if its commit is known to have none, or if nothing may be downloaded.
pub fn cached(reference: &HubReference, settings: &HubSettings) -> Option<PathBuf> {
    let snapshot = RepoCache::new(&settings.cache, reference.repo()).snapshot(reference)?;
    let complete = snapshot.missing.is_none() && (snapshot.tokenizer_settled || settings.offline);
    complete.then(|| path_of(snapshot.path, snapshot.gguf.as_deref()))
}

/// Downloads the current state of a model into the cache and returns its path, as [`cached`] does. Files in the cache are not
/// downloaded again.
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
    let transfer = Transfer { client: &client, cache: &cache, repo: reference.repo(), commit: &commit };
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
    let free_bytes = disk().free_bytes(&blobs).map_err(FileError::io(&blobs))?;
    if needed_bytes > free_bytes {
        return Err(HubError::NoSpace { path: blobs, free_bytes, needed_bytes });
    }
    for (file, content) in weights.iter().zip(contents) {
        transfer.fetch(file, content, progress)?;
    }
    let gguf = weights.first().filter(|file| file.ends_with(".gguf")).map(String::as_str);
    if gguf.is_some() && reference.gguf().is_none() {
        [SINGLE, INDEX].iter().try_for_each(|name| cache.remember_absent(&commit, name))?;
    }
    if gguf.is_none() && !TOKENIZERS.iter().any(|name| listed.contains(*name)) {
        cache.remember_absent(&commit, TOKENIZERS[0])?;
    }
    // Last, so that a branch never leads to an incomplete model.
    cache.remember(reference.revision(), &commit)?;
    Ok(path_of(snapshot, gguf))
}

/// The shards in the index of a snapshot, all of which must be in the repository.
fn shards(
    reference: &HubReference,
    commit: &str,
    snapshot: &Path,
    listed: &BTreeSet<String>,
) -> Result<Vec<String>, HubError> {
    let repo = reference.repo().to_owned();
    let Some(shards) = files::read_index(&snapshot.join(INDEX)) else {
        let expected = "an object with a weight_map of at least one shard";
        return Err(HubError::Answer { url: format!("{repo}/{INDEX}"), found: "something else".into(), expected });
    };
    for shard in &shards {
        if !is_file_name(shard) || !shard.ends_with(".safetensors") {
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
