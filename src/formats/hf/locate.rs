//! Finds each weight that a config calls for in the files, and refuses everything else.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::fault::{HfError, HfFault};
use super::names::{Layout, Naming, Place};
use crate::config::DecoderConfig;
use crate::formats::CheckpointError;
use crate::formats::safetensors::{SafetensorsFile, TensorInfo};
use crate::weights::{Dtype, TensorId};

/// Where a weight is: in a shard, from byte `begin` of its data on.
#[derive(Debug)]
pub(super) struct Stored {
    pub shard: usize,
    pub begin: u64,
    pub dtype: Dtype,
}

/// Finds every weight that the config calls for. Refuses other tensors, but for those that do not matter.
pub(super) fn locate(
    directory: &Path,
    config: &DecoderConfig,
    naming: &Naming,
    shards: &[SafetensorsFile],
) -> Result<HashMap<TensorId, Stored>, CheckpointError> {
    let fault = |fault| HfError::new(directory, fault);
    let tensors: HashMap<&str, (usize, &TensorInfo)> = shards
        .iter()
        .enumerate()
        .flat_map(|(i, shard)| shard.tensors().map(move |(name, info)| (name, (i, info))))
        .collect();
    let layers = tensors.keys().filter_map(|name| naming.layer_of(name)).map(|layer| layer.saturating_add(1)).max();
    if let Some(found) = layers.filter(|found| *found != config.num_hidden_layers) {
        return Err(fault(HfFault::LayerCount { found, expected: config.num_hidden_layers }).into());
    }
    let layout = Layout::of(tensors.keys().copied());
    let (mut weights, mut expected) = (HashMap::new(), HashSet::new());
    // One at a time: a config may call for more weights than memory could list.
    for id in TensorId::in_order(config) {
        let Place { name, shape, first } = Place::of(id, config, layout);
        let name = naming.in_file(&name);
        let Some(&(shard, info)) = tensors.get(name.as_str()) else {
            return Err(fault(HfFault::MissingTensor { name }).into());
        };
        let dtype =
            checked_dtype(info, &name, id, &shape).map_err(|fault| HfError::new(shards[shard].path(), fault))?;
        weights.insert(id, Stored { shard, begin: info.begin + first * dtype.size_bytes() as u64, dtype });
        expected.insert(name);
    }
    let head = naming.in_file(&TensorId::LmHead.to_string());
    let is_ignored = |name: &str| {
        // Rotary frequencies that old files store, or a copy of the embeddings.
        name.ends_with("rotary_emb.inv_freq") || (config.tie_word_embeddings && name == head)
    };
    let mut all = shards.iter().flat_map(|shard| shard.tensors().map(move |(name, _)| (shard.path(), name)));
    if let Some((path, name)) = all.find(|(_, name)| !expected.contains(*name) && !is_ignored(name)) {
        return Err(HfError::new(path, HfFault::UnexpectedTensor { name: name.to_owned() }).into());
    }
    if let Some(&(shard, head)) = tensors.get(head.as_str())
        && config.tie_word_embeddings
        && !is_copy(shards, &weights[&TensorId::EmbedTokens], config, shard, head)?
    {
        return Err(fault(HfFault::HeadNotTied).into());
    }
    Ok(weights)
}

fn checked_dtype(info: &TensorInfo, name: &str, id: TensorId, expected: &[usize]) -> Result<Dtype, HfFault> {
    let name = || name.to_owned();
    if info.shape != expected {
        let (found, expected) = (info.shape.clone(), expected.to_vec());
        return Err(HfFault::ShapeMismatch { name: name(), id, found, expected });
    }
    match info.weight_dtype() {
        None => Err(HfFault::UnsupportedDtype { name: name(), found: info.dtype }),
        Some(found) if !found.is_float() => Err(HfFault::Integers { name: name(), found }),
        Some(dtype) => Ok(dtype),
    }
}

/// Whether the head beside tied embeddings has the same bytes.
fn is_copy(
    shards: &[SafetensorsFile],
    embeddings: &Stored,
    config: &DecoderConfig,
    shard: usize,
    head: &TensorInfo,
) -> Result<bool, CheckpointError> {
    if head.weight_dtype() != Some(embeddings.dtype) || head.shape != TensorId::EmbedTokens.shape(config) {
        return Ok(false);
    }
    let (mut at, mut same) = (head.begin, true);
    let span = embeddings.begin..embeddings.begin + (head.end - head.begin);
    shards[embeddings.shard].stream_bytes(span, embeddings.dtype, &mut |piece| {
        let end = at + piece.len() as u64;
        same = same && shards[shard].read_bytes(at..end)? == piece;
        at = end;
        Ok(())
    })?;
    Ok(same)
}
