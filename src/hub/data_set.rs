//! Data sets of the hub, in the Parquet files that it makes of each.

use std::path::PathBuf;

use super::cache::{RepoCache, create_directories};
use super::client::Client;
use super::error::HubError;
use super::progress::Progress;
use super::repo::Repo;
use super::settings::HubSettings;
use crate::error::quoted;

/// The branch with the hub's Parquet files: `CONFIG/SPLIT/0000.parquet`.
/// <https://huggingface.co/docs/dataset-viewer/parquet>
const BRANCH: &str = "refs/convert/parquet";

/// The files of a split of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataSetFiles {
    /// The commit of the hub's conversion.
    pub commit: String,
    /// The files in the cache, in the order of the rows.
    pub paths: Vec<PathBuf>,
}

/// The Parquet files of `folder`, which is `CONFIG/SPLIT`, of the data set `id`: from the cache, which is shared with Python, or
/// downloaded into it.
///
/// # Errors
/// Any [`HubError`]; [`HubError::Offline`] if the network may not be used and the cache lacks the files.
pub fn data_set_files(
    id: &str,
    folder: &str,
    settings: &HubSettings,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<DataSetFiles, HubError> {
    let repo = Repo::data_set(id);
    if let Some(found) = cached(&RepoCache::new(&settings.cache, repo), folder, settings.offline) {
        return Ok(found);
    }
    if settings.offline {
        let (folder, cache) = (quoted(folder), &settings.cache);
        return Err(HubError::Offline(format!("{folder} of the data set {id} is not in the cache {cache:?}")));
    }
    let client = Client::new(settings, repo, progress)?;
    let (commit, listed) = client.resolve(BRANCH)?;
    let is_part = |name: &&String| {
        let file = name.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
        file.is_some_and(|file| file.ends_with(".parquet") && !file.contains('/'))
    };
    let names: Vec<&String> = listed.iter().filter(is_part).collect();
    if names.is_empty() {
        return Err(HubError::no_file(id, &part(folder, 0), &commit));
    }
    create_directories(&client.cache.blobs)?;
    for name in &names {
        client.fetch(&commit, name, client.content(&commit, name)?)?;
    }
    client.cache.remember_absent(&commit, &part(folder, names.len()))?;
    client.cache.remember(BRANCH, &commit)?;
    let paths = names.iter().map(|name| client.cache.snapshots.join(&commit).join(name)).collect();
    Ok(DataSetFiles { commit, paths })
}

/// The files in the cache, if the commit is known to have no further one, or if no further one may be downloaded.
fn cached(cache: &RepoCache, folder: &str, offline: bool) -> Option<DataSetFiles> {
    let commit = cache.commit(BRANCH)?;
    let path = |index| cache.snapshots.join(&commit).join(part(folder, index));
    let paths: Vec<PathBuf> = (0..).map(path).take_while(|path| path.is_file()).collect();
    let is_complete = offline || cache.is_absent(&commit, &part(folder, paths.len()));
    (is_complete && !paths.is_empty()).then_some(DataSetFiles { commit, paths })
}

/// The name of a file of a split.
fn part(folder: &str, index: usize) -> String {
    format!("{folder}/{index:04}.parquet")
}
