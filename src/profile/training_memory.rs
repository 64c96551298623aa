//! The peak of memory of a training run, foreseen from what it keeps.

use serde::Serialize;

use super::flops::{count_parameters, product};
use super::memory_timeline::MemoryMoment;
use crate::config::DecoderConfig;
use crate::kernel::linear_cross_entropy::tokens_of_chunk;

/// Size of a float32.
const FLOAT_BYTES: u64 = 4;
/// Size of a bfloat16.
const HALF_BYTES: u64 = 2;
/// Packed panels of products and small freed blocks that the allocator keeps, as measured.
const SCRATCH_BYTES: u64 = 16 << 20;

/// The settings on which the memory of a run depends, besides its config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainingShape {
    /// Bytes of the weights as they are loaded.
    pub weight_bytes: u64,
    /// Parameters that are trained.
    pub num_trained: u64,
    /// Tokens of a pass.
    pub num_tokens: u64,
    /// Whether gradients of several passes are added.
    pub accumulates: bool,
    /// Whether products read rounded copies of the matrices, which are kept for the gradient.
    pub is_mixed: bool,
    /// Whether layers keep their inputs only.
    pub recomputes: bool,
    /// Whether experts have adapters.
    pub adapts_experts: bool,
    /// Numbers that all layers keep for each token because of an adapter; see
    /// [`LoraConfig::activation_numbers`](crate::lora::LoraConfig::activation_numbers).
    pub adapter_numbers: u64,
}

/// The parts of the peak, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TrainingMemory {
    /// Weights.
    pub weights: u64,
    /// Two moments of each trained parameter.
    pub moments: u64,
    /// Gradients, of the pass and of those before it.
    pub gradients: u64,
    /// Activations that are kept, and the temporaries of one layer or of the loss.
    pub activations: u64,
    /// Packed panels of products, and freed blocks that the allocator keeps.
    pub scratch: u64,
}

impl TrainingMemory {
    /// Foresees a run.
    ///
    /// A pass is at its peak when all activations are kept and only the head has its gradient, or in the gradient of its first
    /// layer, when nearly all gradients exist, or at its end, when those of tied weights are added. A layer keeps, per token,
    /// `4·hidden_size + 2·(heads + kv_heads)·head_dim + 3·intermediate_size` numbers: inputs of norms and products, rotated queries
    /// and keys, values, the output of attention, gate, up and their product. An expert keeps gate and up, and its product is
    /// computed again; with an adapter it also keeps its input, product and output. Any adapter keeps its inner products, and under
    /// dropout an input for each matrix, and a mask where dropout has no kernel. Of several groups of parameters of which some are
    /// frozen, the head counts as frozen.
    ///
    /// # Panics
    /// If a count reaches `2^128`.
    pub fn foresee(config: &DecoderConfig, shape: TrainingShape) -> Self {
        let TrainingShape { weight_bytes, num_trained, num_tokens, .. } = shape;
        let trained = product([num_trained.into(), FLOAT_BYTES.into()]);
        let num_tokens = u128::from(num_tokens);
        let layers = config.num_hidden_layers as u128;
        let of_tokens = |numbers: u128| product([numbers, num_tokens, FLOAT_BYTES.into()]);
        let adapter_numbers = u128::from(shape.adapter_numbers) / layers.max(1);
        let layer = of_tokens(layer_numbers(config, shape.adapts_experts) + adapter_numbers);
        let backward = of_tokens(backward_numbers(config, shape.adapts_experts));
        let input = of_tokens(config.hidden_size as u128);
        let parameters = count_parameters(config).total;
        let head = match num_trained >= parameters {
            true => product([config.vocab_size as u128, config.hidden_size as u128, FLOAT_BYTES.into()]),
            false => 0,
        };
        let rounded = if shape.is_mixed { product([parameters.into(), HALF_BYTES.into()]) } else { 0 };
        let rounded_of_layer = rounded / layers.max(1);
        let tokens_of_chunk = tokens_of_chunk(usize::try_from(num_tokens).unwrap_or(usize::MAX), config.vocab_size);
        let logits = product([tokens_of_chunk as u128, config.vocab_size as u128, FLOAT_BYTES.into()]);
        // Of the loss or the layer whose gradient is computed, and of the states around the layers.
        let before = 4 * input
            + match shape.recomputes {
                true => layers * input + logits.max(layer + backward + rounded_of_layer),
                false => layers * layer + logits.max(backward) + rounded,
            };
        let tied = if config.tie_word_embeddings { head } else { 0 };
        let candidates = [(head, before), (trained, layer + backward + input + rounded_of_layer), (trained + tied, 0)];
        let highest = candidates.into_iter().max_by_key(|(gradients, activations)| gradients + activations);
        let (of_pass, activations) = highest.expect("there are three");
        let earlier = if shape.accumulates { trained } else { 0 };
        let bytes = |bytes: u128| u64::try_from(bytes).unwrap_or(u64::MAX);
        Self {
            weights: weight_bytes,
            moments: bytes(2 * trained),
            gradients: bytes(earlier + of_pass),
            activations: bytes(activations),
            // The allocator keeps the blocks of the loss while the layers are computed, or the reverse.
            scratch: SCRATCH_BYTES + bytes(logits.min(backward)),
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        let Self { weights, moments, gradients, activations, scratch } = *self;
        [weights, moments, gradients, activations, scratch].into_iter().fold(0, u64::saturating_add)
    }
}

/// Without the scratch space, which is no live memory of the heap between updates.
impl From<TrainingMemory> for MemoryMoment {
    fn from(memory: TrainingMemory) -> Self {
        let TrainingMemory { weights, moments, gradients, activations, .. } = memory;
        Self { weights, optimizer: moments, gradients, activations, ..Self::default() }
    }
}

/// Numbers that a layer keeps for each token.
fn layer_numbers(config: &DecoderConfig, adapts_experts: bool) -> u128 {
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
        Some(moe) => {
            let of_adapter = if adapts_experts { intermediate + 2 * hidden } else { 0 };
            moe.num_experts_per_tok as u128 * (2 * intermediate + of_adapter) + 4 * moe.num_local_experts as u128
        }
    };
    4 * hidden + 2 * (heads + kv_heads) * head_dim + heads + mlp
}

/// Numbers for each token that the gradient of a layer needs temporarily: of gate and up, or, for each visit to an expert, of its
/// input, its output, gate and up, and the product, unless it was kept for an adapter.
fn backward_numbers(config: &DecoderConfig, adapts_experts: bool) -> u128 {
    let [hidden, intermediate] = [config.hidden_size, config.intermediate_size].map(|size| size as u128);
    match config.moe {
        None => 2 * intermediate,
        Some(moe) => {
            let product = if adapts_experts { 0 } else { intermediate };
            moe.num_experts_per_tok as u128 * (2 * intermediate + 2 * hidden + product)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lora::LoraConfig;

    const SHAPE: TrainingShape = TrainingShape {
        weight_bytes: 4 << 20,
        num_trained: 1 << 20,
        num_tokens: 8 * 512,
        accumulates: false,
        is_mixed: false,
        recomputes: false,
        adapts_experts: false,
        adapter_numbers: 0,
    };

    /// Peaks of the resident set of `deepwide train` and of `--gradient-checkpointing` on the built-in base, two updates of eight
    /// rows of 512 tokens, less the 19 MiB that the process had before it loaded the model.
    #[test]
    fn forecasts_are_within_fifteen_percent_of_measured_peaks() {
        for (recomputes, measured_mib) in [(false, 263.0), (true, 100.7)] {
            let config = DecoderConfig::pico();
            let found = TrainingMemory::foresee(&config, TrainingShape { recomputes, ..SHAPE }).total() as f64;
            let ratio = found / (measured_mib * 1048576.0);
            assert!((0.85..1.15).contains(&ratio), "{ratio}");
        }
    }

    /// Peaks of the resident set of `deepwide sft --use-peft` on the built-in base with dropout and without, in passes of sixteen rows
    /// of 255 tokens, less the 19 MiB before. Rank 16: 251,904 parameters.
    #[test]
    fn adapters_are_foreseen_within_five_percent_of_measured_peaks() {
        let config = DecoderConfig::pico();
        for (lora_dropout, measured_mib) in [(0.0, 265.0), (0.05, 296.9)] {
            let lora = LoraConfig { r: 16, lora_dropout, ..LoraConfig::default() };
            let adapter_numbers = lora.activation_numbers(&config, false).unwrap();
            let shape = TrainingShape { num_trained: 251_904, num_tokens: 16 * 255, adapter_numbers, ..SHAPE };
            let ratio = TrainingMemory::foresee(&config, shape).total() as f64 / (measured_mib * 1048576.0);
            assert!((0.95..1.05).contains(&ratio), "dropout {lora_dropout}: {ratio}");
        }
    }

    #[test]
    fn an_adapter_saves_moments_and_gradients_and_a_second_pass_adds_gradients() {
        let config = DecoderConfig::pico();
        let all = TrainingMemory::foresee(&config, SHAPE);
        let adapter = TrainingMemory::foresee(&config, TrainingShape { num_trained: 1 << 10, ..SHAPE });
        assert_eq!(all.moments, 1024 * adapter.moments);
        let accumulated = TrainingMemory::foresee(&config, TrainingShape { accumulates: true, ..SHAPE });
        assert_eq!(accumulated.total(), all.total() + (4 << 20));
        // Of few tokens, the gradients at the end of a pass are the larger part.
        let short = TrainingMemory::foresee(&config, TrainingShape { num_tokens: 1, ..SHAPE });
        assert!(short.activations == 0 && short.gradients >= 4 << 20);
    }

    #[test]
    fn numbers_of_an_adapter_are_activations_of_all_layers_or_of_the_one_that_is_computed_again() {
        let config = DecoderConfig::pico();
        let activations = |adapter_numbers, recomputes| {
            let shape = TrainingShape { num_trained: 1 << 10, adapter_numbers, recomputes, ..SHAPE };
            TrainingMemory::foresee(&config, shape).activations
        };
        let layers = config.num_hidden_layers as u64;
        let added = 4 * SHAPE.num_tokens * 3 * config.hidden_size as u64;
        let numbers = 3 * layers * config.hidden_size as u64;
        assert_eq!(activations(numbers, false) - activations(0, false), layers * added);
        assert_eq!(activations(numbers, true) - activations(0, true), added);
    }
}
