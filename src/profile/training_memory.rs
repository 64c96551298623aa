//! The peak of memory of a training run, foreseen from what it keeps.

use super::flops::{count_parameters, product};
use crate::config::DecoderConfig;

/// Size of a float32.
const FLOAT_BYTES: u64 = 4;
/// Size of a bfloat16.
const HALF_BYTES: u64 = 2;

/// What the memory of a run depends on besides its config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainingShape {
    /// Bytes of the weights as they are loaded.
    pub weight_bytes: u64,
    /// Parameters that are trained.
    pub num_trained: u64,
    /// Sequences of a pass.
    pub num_sequences: u64,
    /// Tokens of a sequence.
    pub seq_length: u64,
    /// Whether gradients of several passes are added.
    pub accumulates: bool,
    /// Whether products read rounded copies of the matrices, which are kept for the gradient.
    pub is_mixed: bool,
    /// Whether layers keep their inputs only.
    pub recomputes: bool,
}

/// The parts of the peak, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainingMemory {
    /// Weights.
    pub weights: u64,
    /// Two moments of each trained parameter.
    pub moments: u64,
    /// Gradients, of the pass and of those before it.
    pub gradients: u64,
    /// Activations that are kept, and the temporaries of one layer.
    pub activations: u64,
}

impl TrainingMemory {
    /// Foresees a run.
    ///
    /// A pass is at its peak either before its first gradient, when all activations are kept, or after its last, when all gradients
    /// are. A layer keeps, per token, `4·hidden_size + 2·(heads + kv_heads)·head_dim + 3·intermediate_size` numbers: inputs of
    /// norms and products, rotated queries and keys, values, the output of attention, gate, up and their product. An expert keeps
    /// gate and up, and its product is computed again.
    ///
    /// # Panics
    /// If a count reaches `2^128`.
    pub fn foresee(config: &DecoderConfig, shape: TrainingShape) -> Self {
        let TrainingShape { weight_bytes, num_trained, num_sequences, seq_length, .. } = shape;
        let trained = product([num_trained.into(), FLOAT_BYTES.into()]);
        let num_tokens = product([num_sequences.into(), seq_length.into()]);
        let layers = config.num_hidden_layers as u128;
        let layer = product([layer_numbers(config), num_tokens, FLOAT_BYTES.into()]);
        let input = product([config.hidden_size as u128, num_tokens, FLOAT_BYTES.into()]);
        let matrices = u128::from(count_parameters(config).total);
        let rounded = if shape.is_mixed { product([matrices, HALF_BYTES.into()]) } else { 0 };
        let (kept, rounded) = match shape.recomputes {
            true => (layers * input + layer, rounded / layers.max(1)),
            false => (layers * layer, rounded),
        };
        // Of the layer whose gradient is computed, and of the states around the layers.
        let temporaries = layer / 2 + 4 * input;
        let before = kept + rounded + temporaries;
        let tied = if config.tie_word_embeddings {
            product([config.vocab_size as u128, config.hidden_size as u128, FLOAT_BYTES.into()]).min(trained)
        } else {
            0
        };
        let after = trained + tied;
        let earlier = if shape.accumulates { trained } else { 0 };
        let bytes = |bytes: u128| u64::try_from(bytes).unwrap_or(u64::MAX);
        Self {
            weights: weight_bytes,
            moments: bytes(2 * trained),
            gradients: bytes(earlier + if after > before { after } else { 0 }),
            activations: bytes(if after > before { 0 } else { before }),
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        let Self { weights, moments, gradients, activations } = *self;
        [weights, moments, gradients, activations].into_iter().fold(0, u64::saturating_add)
    }
}

/// Numbers that a layer keeps for each token.
fn layer_numbers(config: &DecoderConfig) -> u128 {
    let [hidden, intermediate, heads, kv_heads, head_dim] = [
        config.hidden_size,
        config.intermediate_size,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
    ]
    .map(|size| size as u128);
    let mlp = match config.moe {
        None => 3 * intermediate,
        Some(moe) => 2 * moe.num_experts_per_tok as u128 * intermediate + 4 * moe.num_local_experts as u128,
    };
    4 * hidden + 2 * (heads + kv_heads) * head_dim + heads + mlp
}
