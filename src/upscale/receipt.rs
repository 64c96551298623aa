//! The receipt of a growth: its parents, its steps, and the source of every layer.

use std::path::Path;

use serde_json::{Value, json};

use super::growth::{Growth, name_in_record};
use super::sources::Sources;
use crate::error::FileError;
use crate::formats::Checkpoint;
use crate::output::manifest::FileRecord;
use crate::output::receipt::RECORD_FORMAT;
use crate::profile::flops::count_parameters;
use crate::weights::{LayerTensor, Projection, TensorId, WeightSource};

/// The run that grows, for the receipt.
#[derive(Debug, Clone)]
pub struct Provenance {
    /// The words of the command, or none.
    pub command: Vec<String>,
    /// The seed of all random numbers.
    pub seed: u64,
}

/// Hashes the weights of every parent. `watch` receives the size of each chunk read.
///
/// # Errors
/// If a file cannot be read.
pub fn parents(sources: &Sources, watch: &mut dyn FnMut(u64)) -> Result<Vec<Value>, FileError> {
    let parent = |(name, base): (&String, &Checkpoint)| {
        let files: Vec<FileRecord> = base.weight_records(watch)?;
        Ok(json!({"name": name_in_record(Path::new(name)), "weights": files}))
    };
    sources.names.iter().zip(&sources.bases).map(parent).collect()
}

/// The receipt without its list of files. It has no date: the same command on the same parents gives the same bytes.
pub fn receipt(parents: Vec<Value>, growth: &Growth<'_>, provenance: &Provenance) -> Value {
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
        env!("CARGO_PKG_NAME"): env!("CARGO_PKG_VERSION"),
        "command": provenance.command,
        "seed": provenance.seed,
        "growth": growth.record(),
        "parents": parents,
        "total_parameters": parameters.total,
        "active_parameters": parameters.active,
        "layers": layers,
    })
}
