//! Opens the files of a directory that hold the weights: one, or those that an index names.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use super::fault::{HfError, HfFault};
use super::index::ShardIndex;
use crate::error::FileError;
use crate::formats::safetensors::{SafetensorsFile, TensorInfo};
use crate::formats::{CheckpointError, Notice, Remark};
use crate::output::disk::Disk;
use crate::output::is_plain_file_name;
use crate::output::read::{exists, read_bounded};

/// The weights in one file.
pub(crate) const SINGLE: &str = "model.safetensors";
/// The index of weights in several files.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

const INDEX_LIMIT_BYTES: u64 = 256 << 20;

/// Number of missing files that a message lists.
const LISTED: usize = 5;

/// Whether the given path chooses between two formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// It is a directory, which may hold only one format.
    Open,
    /// It is a file of this format.
    Safetensors,
}

/// Opens the files, in the order of their names.
pub(super) fn open(
    disk: &Arc<dyn Disk>,
    directory: &Path,
    choice: Choice,
    notices: &mut Vec<Notice>,
) -> Result<Vec<SafetensorsFile>, CheckpointError> {
    let (single, index) = (directory.join(SINGLE), directory.join(INDEX));
    let names = disk.list(directory).map_err(FileError::io(directory))?;
    let first = |ending| Some(directory.join(names.iter().filter(|name| ends_in(name, &[ending])).min()?));
    match (first("gguf"), first("safetensors")) {
        (Some(gguf), Some(safetensors)) if choice == Choice::Open => {
            return Err(CheckpointError::TwoFormats { gguf, safetensors });
        }
        (Some(path), Some(_)) => notices.push(Notice::new(path, Remark::GgufAside)),
        _ => {}
    }
    let has_single = exists(&**disk, &single)?;
    if exists(&**disk, &index)? {
        let shards = open_indexed(disk, directory, &index, notices)?;
        if has_single && shards.iter().all(|shard| shard.path() != single) {
            return Err(HfError::new(directory, HfFault::AmbiguousWeights).into());
        }
        Ok(shards)
    } else if has_single {
        Ok(vec![SafetensorsFile::open_on(Arc::clone(disk), &single)?])
    } else {
        Err(HfError::new(directory, HfFault::NoWeights { beside: other_formats(&names) }).into())
    }
}

/// The formats in a directory without readable weights.
fn other_formats(names: &[OsString]) -> &'static str {
    let any = |endings: &[&str]| names.iter().any(|name| ends_in(name, endings));
    match () {
        () if any(&["safetensors"]) => ", only safetensors files that no index names",
        () if any(&["gguf"]) => ", only GGUF: name the file itself",
        () if any(&["bin", "pth", "pt"]) => ", only PyTorch pickles, which are never read",
        () => "",
    }
}

fn ends_in(name: &OsString, endings: &[&str]) -> bool {
    Path::new(name).extension().is_some_and(|ending| endings.iter().any(|known| ending.eq_ignore_ascii_case(known)))
}

/// Opens the files that the index names, and no others.
fn open_indexed(
    disk: &Arc<dyn Disk>,
    directory: &Path,
    path: &Path,
    notices: &mut Vec<Notice>,
) -> Result<Vec<SafetensorsFile>, CheckpointError> {
    let fault = |fault| HfError::new(path, fault);
    let index = ShardIndex::parse(&read_bounded(&**disk, path, INDEX_LIMIT_BYTES)?).map_err(fault)?;
    if let Some(shard) = index.shards().iter().find(|shard| !is_plain_file_name(shard)) {
        return Err(fault(HfFault::UnsafeShardName { shard: shard.clone() }).into());
    }
    let mut names = Vec::new();
    for shard in index.shards() {
        if !exists(&**disk, &directory.join(shard))? {
            names.push(shard.clone());
        }
    }
    if !names.is_empty() {
        let (missing, total) = (names.len(), index.shards().len());
        names.truncate(LISTED);
        return Err(fault(HfFault::MissingShard { names, missing, total }).into());
    }
    let shards: Vec<SafetensorsFile> = (0..index.shards().len())
        .map(|i| open_assigned(disk, &directory.join(&index.shards()[i]), &index, i))
        .collect::<Result<_, _>>()?;
    let size = |(_, info): (&str, &TensorInfo)| info.end - info.begin;
    let expected_bytes = shards.iter().flat_map(|shard| shard.tensors().map(size)).sum();
    if let Some(found_bytes) = index.total_size().filter(|found_bytes| *found_bytes != expected_bytes) {
        notices.push(Notice::new(path, Remark::TotalSize { found_bytes, expected_bytes }));
    }
    Ok(shards)
}

/// Opens shard `i`, which must hold exactly the tensors that the index assigns to it.
fn open_assigned(
    disk: &Arc<dyn Disk>,
    path: &Path,
    index: &ShardIndex,
    i: usize,
) -> Result<SafetensorsFile, CheckpointError> {
    let shard = SafetensorsFile::open_on(Arc::clone(disk), path)?;
    let absent = index.assigned(i).find(|name| shard.info(name).is_none());
    let missing = absent.map(|name| HfFault::NotInShard { name: name.to_owned() });
    let misplaced = || {
        shard.tensors().find_map(|(name, _)| match index.shard_of(name) {
            Some(assigned) if assigned == i => None,
            Some(assigned) => {
                Some(HfFault::InOtherShard { name: name.to_owned(), shard: index.shards()[assigned].clone() })
            }
            None => Some(HfFault::NotInIndex { name: name.to_owned() }),
        })
    };
    match missing.or_else(misplaced) {
        Some(fault) => Err(HfError::new(path, fault).into()),
        None => Ok(shard),
    }
}
