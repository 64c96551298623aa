//! Which files of a directory hold the weights: one, or those that an index names.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use super::index::ShardIndex;
use crate::error::FileError;
use crate::formats::Notice;
use crate::formats::safetensors::{SafetensorsFile, TensorInfo};
use crate::output::disk::{Disk, exists};
use crate::output::is_plain_file_name;
use crate::weights::WeightError;

pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Names of missing files that a message lists.
const LISTED: usize = 5;

/// Whether who gave the path has chosen between two formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// A directory was named: there must be but one format in it.
    Open,
    /// A file of this format was named.
    Safetensors,
}

/// The opened files, in the order of their names, and what is worth knowing of them.
pub(super) fn open(
    disk: &Arc<dyn Disk>,
    directory: &Path,
    choice: Choice,
    notices: &mut Vec<Notice>,
) -> Result<Vec<SafetensorsFile>, WeightError> {
    let (single, index) = (directory.join(SINGLE), directory.join(INDEX));
    let names = disk.list(directory).map_err(FileError::io(directory))?;
    let first = |ending| Some(directory.join(names.iter().filter(|name| ends_in(name, &[ending])).min()?));
    match (first("gguf"), first("safetensors")) {
        (Some(gguf), Some(safetensors)) if choice == Choice::Open => {
            return Err(WeightError::TwoFormats { gguf, safetensors });
        }
        (Some(path), Some(_)) => notices.push(Notice::GgufAside { path }),
        _ => {}
    }
    let shards = match (exists(&**disk, &single)?, exists(&**disk, &index)?) {
        (true, false) => vec![SafetensorsFile::open_on(Arc::clone(disk), &single)?],
        (false, false) => {
            return Err(WeightError::NoWeights { path: directory.to_owned(), beside: what_lies_there(&names) });
        }
        (has_single, true) => {
            let shards = open_indexed(disk, directory, &index, notices)?;
            if has_single && shards.iter().all(|shard| shard.path() != single) {
                return Err(WeightError::AmbiguousWeights { path: directory.to_owned() });
            }
            shards
        }
    };
    Ok(shards)
}

fn what_lies_there(names: &[OsString]) -> &'static str {
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
) -> Result<Vec<SafetensorsFile>, WeightError> {
    let index = ShardIndex::read(&**disk, path)?;
    if let Some(shard) = index.shards().iter().find(|shard| !is_plain_file_name(shard)) {
        return Err(WeightError::UnsafeShardName { path: path.to_owned(), shard: shard.clone() });
    }
    let mut missing = Vec::new();
    for shard in index.shards() {
        if !exists(&**disk, &directory.join(shard))? {
            missing.push(shard.clone());
        }
    }
    if !missing.is_empty() {
        let (count, total) = (missing.len(), index.shards().len());
        missing.truncate(LISTED);
        return Err(WeightError::MissingShard { path: path.to_owned(), names: missing, missing: count, total });
    }
    let open = |(i, shard): (usize, &String)| open_assigned(disk, &directory.join(shard), &index, i);
    let shards = index.shards().iter().enumerate().map(open).collect::<Result<Vec<_>, _>>()?;
    let size = |(_, info): (&str, &TensorInfo)| info.end - info.begin;
    let expected_bytes = shards.iter().flat_map(|shard| shard.tensors().map(size)).sum();
    if let Some(found_bytes) = index.total_size().filter(|found_bytes| *found_bytes != expected_bytes) {
        notices.push(Notice::TotalSize { path: path.to_owned(), found_bytes, expected_bytes });
    }
    Ok(shards)
}

/// Opens the shard at place `i` of the index, which holds what the index assigns to it and nothing else.
fn open_assigned(
    disk: &Arc<dyn Disk>,
    path: &Path,
    index: &ShardIndex,
    i: usize,
) -> Result<SafetensorsFile, WeightError> {
    let shard = SafetensorsFile::open_on(Arc::clone(disk), path)?;
    if let Some(name) = index.assigned(i).find(|name| shard.info(name).is_none()) {
        return Err(WeightError::NotInShard { path: path.to_owned(), name: name.to_owned() });
    }
    for (name, _) in shard.tensors() {
        let (path, name) = (|| path.to_owned(), || name.to_owned());
        match index.shard_of(&name()) {
            Some(assigned) if assigned == i => {}
            Some(assigned) => {
                let shard = index.shards()[assigned].clone();
                return Err(WeightError::InOtherShard { path: path(), name: name(), shard });
            }
            None => return Err(WeightError::NotInIndex { path: path(), name: name() }),
        }
    }
    Ok(shard)
}
