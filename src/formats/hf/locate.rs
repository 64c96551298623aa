//! Where each weight that a config calls for lies in the files, and whether there is anything else.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::names::{Layout, Place, is_ignored, layer_of};
use crate::config::DecoderConfig;
use crate::formats::safetensors::SafetensorsFile;
use crate::weights::{Dtype, TensorId, WeightError};

/// Where a weight lies: a run of bytes in a tensor of a shard.
#[derive(Debug)]
pub(super) struct Stored {
    pub shard: usize,
    pub name: String,
    pub begin: u64,
    pub dtype: Dtype,
}

/// Finds every weight that the config calls for, and refuses what it does not.
pub(super) fn locate(
    directory: &Path,
    config: &DecoderConfig,
    shards: &[SafetensorsFile],
) -> Result<HashMap<TensorId, Stored>, WeightError> {
    let shard_of: HashMap<&str, usize> =
        shards.iter().enumerate().flat_map(|(i, shard)| shard.tensors().map(move |(name, _)| (name, i))).collect();
    let layers = shard_of.keys().filter_map(|name| layer_of(name)).map(|layer| layer.saturating_add(1)).max();
    if let Some(found) = layers.filter(|found| *found != config.num_hidden_layers) {
        let (path, expected) = (directory.to_owned(), config.num_hidden_layers);
        return Err(WeightError::LayerCount { path, found, expected });
    }
    let layout = Layout::of(shard_of.keys().copied());
    let (mut weights, mut expected) = (HashMap::new(), HashSet::new());
    // One at a time: a config may call for more weights than memory could list.
    for id in TensorId::in_order(config) {
        let Place { name, shape, first } = Place::of(id, config, layout);
        let Some(&shard) = shard_of.get(name.as_str()) else {
            return Err(WeightError::MissingTensor { path: directory.to_owned(), name });
        };
        let dtype = checked_dtype(&shards[shard], &name, &shape)?;
        expected.insert(name.clone());
        weights.insert(id, Stored { shard, name, begin: first * dtype.size_bytes() as u64, dtype });
    }
    let unexpected = |name: &str| !expected.contains(name) && !is_ignored(name, config);
    let mut tensors = shards.iter().flat_map(|shard| shard.tensors().map(move |(name, _)| (shard.path(), name)));
    if let Some((path, name)) = tensors.find(|(_, name)| unexpected(name)) {
        return Err(WeightError::UnexpectedTensor { path: path.to_owned(), name: name.to_owned() });
    }
    if config.tie_word_embeddings && !head_is_tied(shards, &shard_of)? {
        return Err(WeightError::HeadNotTied { path: directory.to_owned() });
    }
    Ok(weights)
}

fn checked_dtype(shard: &SafetensorsFile, name: &str, expected: &[usize]) -> Result<Dtype, WeightError> {
    let info = shard.existing(name)?;
    if info.shape != expected {
        return Err(WeightError::ShapeMismatch {
            path: shard.path().to_owned(),
            name: name.to_owned(),
            found: info.shape.clone(),
            expected: expected.to_vec(),
        });
    }
    shard.weight_dtype(name)
}

/// Whether a head that lies beside the embeddings, if one does, is the same bytes.
fn head_is_tied(shards: &[SafetensorsFile], shard_of: &HashMap<&str, usize>) -> Result<bool, WeightError> {
    let names = [TensorId::EmbedTokens, TensorId::LmHead].map(|id| id.to_string());
    let [Some(embeddings), Some(head)] = names.each_ref().map(|name| shard_of.get(name.as_str()).map(|&i| &shards[i]))
    else {
        return Ok(true);
    };
    let (info, head_info) = (embeddings.existing(&names[0])?, head.existing(&names[1])?);
    if (info.dtype, &info.shape) != (head_info.dtype, &head_info.shape) {
        return Ok(false);
    }
    let (mut at, mut same) = (0, true);
    embeddings.stream_range(
        &names[0],
        0..info.end - info.begin,
        embeddings.weight_dtype(&names[0])?,
        &mut |piece| {
            let end = at + piece.len() as u64;
            same = same && head.read_range(&names[1], at..end)? == piece;
            at = end;
            Ok(())
        },
    )?;
    Ok(same)
}
