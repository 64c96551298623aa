//! The receipt: what grown weights were made of, and how.

use serde_json::{Value, json};

use super::super::run_info::{COMMAND, words};
use crate::error::FileError;
use crate::formats::Checkpoint;
use crate::output::manifest::FileRecord;
use crate::output::receipt::RECORD_FORMAT;
use crate::profile::flops::count_parameters;
use crate::upscale::{Growth, Sources};
use crate::weights::{LayerTensor, Projection, TensorId, WeightSource};

/// The weights that a growth came from, hashed. `watch` is told of every run of bytes read.
pub(super) fn parents(sources: &Sources, watch: &mut dyn FnMut(u64)) -> Result<Vec<Value>, FileError> {
    let parent = |(name, base): (&String, &Checkpoint)| {
        let files: Vec<FileRecord> = base.weight_records(watch)?;
        Ok(json!({"name": words(name), "weights": files}))
    };
    sources.names.iter().zip(&sources.bases).map(parent).collect()
}

/// The receipt but for its files: the same bytes for the same command and the same parents, so without a date.
pub(super) fn receipt(parents: Vec<Value>, growth: &Growth<'_>, seed: u64) -> Value {
    let config = growth.source.config();
    let layers: Vec<Value> = (0..config.num_hidden_layers)
        .map(|layer| {
            let lineage = |tensor| growth.source.lineage(TensorId::Layer(layer, tensor));
            let mlp = match config.moe {
                None => json!({"mlp": lineage(LayerTensor::Mlp(Projection::Down))}),
                Some(moe) => json!({
                    "router": lineage(LayerTensor::Router),
                    "experts": (0..moe.num_local_experts)
                        .map(|expert| lineage(LayerTensor::Expert(expert, Projection::Down)))
                        .collect::<Vec<_>>(),
                }),
            };
            json!({"layer": layer, "self_attn": lineage(LayerTensor::OProj), "feed_forward": mlp})
        })
        .collect();
    let parameters = count_parameters(config);
    json!({
        "format": RECORD_FORMAT,
        COMMAND: env!("CARGO_PKG_VERSION"),
        "command": super::super::run_info::command(),
        "seed": seed,
        "growth": growth.record(),
        "parents": parents,
        "total_parameters": parameters.total,
        "active_parameters": parameters.active,
        "layers": layers,
    })
}
