//! What will be written, and what it costs to run: from headers alone.

use serde::Serialize;
use serde_json::{Value, json};

use super::growth::Growth;
use super::layers::LayerRun;
use crate::config::DecoderConfig;
use crate::output::receipt::RECORD_FORMAT;
use crate::profile::{flops, memory};
use crate::weights::WeightSource;

/// Context at which FLOPs are counted, or the longest context of the model if that is shorter.
const CONTEXT: u64 = 4096;

/// Bytes of a number of the KV cache: 16 bits.
const KV_BYTES_PER_NUMBER: u64 = 2;

/// A growth, its files and its place.
#[derive(Debug, Clone, Serialize)]
pub struct Forecast {
    /// Version of the record.
    format: u32,
    /// The growths in words.
    #[serde(skip)]
    pub title: String,
    /// The growths as records.
    pub growth: Vec<Value>,
    /// Runs of layers of the result.
    pub layers: Vec<LayerRun>,
    /// The cost of the base.
    pub base: Cost,
    /// The cost of the result.
    pub grown: Cost,
    /// The files of weights.
    pub files: Vec<FileSize>,
    /// Their size.
    pub bytes_to_write: u64,
    /// Free space where they are written.
    pub free_bytes: u64,
    /// What may not be meant.
    pub warnings: Vec<String>,
}

/// What a decoder costs.
#[derive(Debug, Clone, Serialize)]
pub struct Cost {
    /// Its config.
    pub config: DecoderConfig,
    /// All parameters.
    pub total_parameters: u64,
    /// Parameters that one token visits.
    pub active_parameters: u64,
    /// FLOPs of a forward pass per token, at [`Cost::context`].
    pub forward_flops_per_token: u64,
    /// Bytes of keys and values per token, in 16 bits.
    pub kv_bytes_per_token: u64,
}

/// Name and size of a file.
#[derive(Debug, Clone, Serialize)]
pub struct FileSize {
    /// Its name.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
}

impl Forecast {
    /// Forecasts a growth of `base`, written as `files` to a place with `free_bytes`.
    pub fn new(
        base: &DecoderConfig,
        growth: &Growth<'_>,
        files: Vec<(String, u64)>,
        free_bytes: u64,
        warnings: Vec<String>,
    ) -> Self {
        Self {
            format: RECORD_FORMAT,
            title: growth.title(),
            growth: growth.record(),
            layers: LayerRun::all(&growth.source),
            base: Cost::of(base),
            grown: Cost::of(growth.source.config()),
            bytes_to_write: files.iter().map(|(_, bytes)| bytes).sum(),
            files: files.into_iter().map(|(name, size_bytes)| FileSize { name, size_bytes }).collect(),
            free_bytes,
            warnings,
        }
    }

    /// The record.
    pub fn to_json(&self) -> Value {
        json!(self)
    }
}

impl Cost {
    fn of(config: &DecoderConfig) -> Self {
        let parameters = flops::count_parameters(config);
        Self {
            total_parameters: parameters.total,
            active_parameters: parameters.active,
            forward_flops_per_token: flops::forward_flops_per_token(config, Self::context(config)) as u64,
            kv_bytes_per_token: memory::kv_cache_bytes_per_token(config, KV_BYTES_PER_NUMBER) as u64,
            config: config.clone(),
        }
    }

    /// The context at which FLOPs of this decoder are counted.
    pub fn context(config: &DecoderConfig) -> u64 {
        CONTEXT.min(config.max_position_embeddings as u64)
    }
}
