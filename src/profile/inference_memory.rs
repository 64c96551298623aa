//! The peak of memory of inference, foreseen from what it keeps.

use serde::Serialize;

use super::flops::product;
use super::memory::kv_cache_bytes_per_token;
use super::memory_timeline::MemoryMoment;
use super::throughput::InferenceTest;
use crate::config::DecoderConfig;

/// Size of a float32.
const FLOAT_BYTES: u128 = 4;

/// The parts of the peak, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct InferenceMemory {
    /// Weights.
    pub weights: u64,
    /// Room for the keys and values of all positions.
    pub cache: u64,
    /// Activations of the layer that computes, or the logits.
    pub activations: u64,
}

impl InferenceMemory {
    /// Foresees a test of a model whose weights take `weight_bytes`.
    ///
    /// # Panics
    /// If a count reaches `2^128`.
    pub fn foresee(config: &DecoderConfig, weight_bytes: u64, test: InferenceTest) -> Self {
        let bytes = |bytes: u128| u64::try_from(bytes).unwrap_or(u64::MAX);
        let positions = product([test.batch_size as u128, test.num_positions() as u128]);
        let longest = if test.n_prompt > 0 { test.n_prompt } else { 1 };
        let tokens = product([test.batch_size as u128, longest as u128]);
        let [hidden, inner, heads, kv_heads, head_dim] = [
            config.hidden_size,
            config.intermediate_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        ]
        .map(|size| size as u128);
        let attention = (2 * heads + 2 * kv_heads) * head_dim + hidden;
        let mlp = inner + 2 * hidden;
        let layer = attention.max(mlp);
        Self {
            weights: weight_bytes,
            cache: bytes(product([kv_cache_bytes_per_token(config, 4), positions])),
            activations: bytes(product([layer, tokens, FLOAT_BYTES])),
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        [self.weights, self.cache, self.activations].into_iter().fold(0, u64::saturating_add)
    }
}

impl From<InferenceMemory> for MemoryMoment {
    fn from(memory: InferenceMemory) -> Self {
        let InferenceMemory { weights, cache, activations } = memory;
        Self { weights, cache, activations, ..Self::default() }
    }
}
