//! The Hugging Face Hub as a source of checkpoints and data sets, through the cache that it shares with Python's `huggingface_hub`.
//!
//! [`cached`] looks without a network. [`download`] resolves a revision to a commit, then downloads what a model needs: config,
//! tokenizer, and safetensors or one GGUF; never a pickle. A file gets its name only when it is complete: its size is always
//! checked, its sha256 if the hub gives one. Interrupted downloads resume. [`data_set_files`] does the same for a split of a data
//! set.
//!
//! Protocol and cache layout: <https://huggingface.co/docs/hub/local-cache>.

mod cache;
mod client;
mod data_set;
mod error;
mod files;
mod headers;
mod progress;
mod reference;
mod repo;
mod settings;
mod transfer;

use std::path::PathBuf;

pub use data_set::{DataSetFiles, data_set_files};
pub use error::HubError;
pub use progress::Progress;
pub use reference::HubReference;
pub use settings::{HubSettings, Patience, Token};

use crate::error::{FileError, quoted};
use crate::formats::TOKENIZERS;
use crate::formats::hf::{INDEX, SINGLE};
use crate::output::disk::disk;
use crate::output::is_plain_file_name;
use cache::{RepoCache, create_directories};
use client::{Client, Subject};
use repo::Repo;

/// The path of a model in the cache, if the cache has all that loading it takes. Uses no network.
///
/// The path is a directory, or the GGUF file that the reference names or that is all the model has. A checkpoint without a
/// tokenizer counts only if its commit is known to have none, or if nothing may be downloaded.
pub fn cached(reference: &HubReference, settings: &HubSettings) -> Option<PathBuf> {
    RepoCache::new(&settings.cache, Repo::model(reference.repo())).find(reference, settings.offline).ok()
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
    let repo = Repo::model(reference.repo());
    if settings.offline {
        let cache = RepoCache::new(&settings.cache, repo);
        return cache.find(reference, true).map_err(|missing| {
            let (cache, missing) = (&settings.cache, quoted(&missing));
            HubError::Offline(format!("{reference} is not in the cache {cache:?} ({missing} is missing)"))
        });
    }
    let client = Client::new(settings, repo, progress)?;
    let cache = &client.cache;
    let (commit, listed) = client.resolve(reference.revision())?;
    let (gguf, small) = files::wanted(reference, &commit, &listed)?;
    create_directories(&cache.blobs)?;
    for file in &small {
        client.fetch(&commit, file, client.content(&commit, file)?)?;
    }
    let snapshot = cache.snapshots.join(&commit);
    let weights = files::weights(&snapshot, gguf.as_deref(), listed.contains(SINGLE));
    let index = Subject { revision: &commit, file: Some(INDEX) };
    let expected = "an object with a weight_map of at least one shard";
    let weights = weights.ok_or_else(|| client.wrong(index, "something else", expected))?;
    for file in &weights {
        if gguf.is_none() && !(is_plain_file_name(file) && file.ends_with(".safetensors")) {
            return Err(HubError::UnsafeName(file.clone()));
        }
        if !listed.contains(file) {
            return Err(HubError::no_file(reference.repo(), file, &commit));
        }
    }
    let contents: Vec<_> = weights.iter().map(|file| client.content(&commit, file)).collect::<Result<_, _>>()?;
    let needed_bytes = contents.iter().map(|content| client.missing_bytes(content)).fold(0, u64::saturating_add);
    let free_bytes = disk().free_bytes(&cache.blobs).map_err(FileError::io(&cache.blobs))?;
    if needed_bytes > free_bytes {
        return Err(HubError::NoSpace { path: cache.blobs.clone(), free_bytes, needed_bytes });
    }
    for (file, content) in weights.iter().zip(contents) {
        client.fetch(&commit, file, content)?;
    }
    if gguf.is_some() && reference.gguf().is_none() {
        [SINGLE, INDEX].iter().try_for_each(|name| cache.remember_absent(&commit, name))?;
    }
    if gguf.is_none() && !TOKENIZERS.iter().any(|name| listed.contains(*name)) {
        cache.remember_absent(&commit, TOKENIZERS[0])?;
    }
    // Last, so that a branch never leads to an incomplete model.
    cache.remember(reference.revision(), &commit)?;
    Ok(gguf.map_or(snapshot.clone(), |file| snapshot.join(file)))
}
