//! Parameters and floating-point operations of a decoder, counted from its config alone.
//!
//! A multiplication and the addition after it are two operations. Matrix products and attention scores are counted; norms,
//! rotary embedding, softmax, SiLU, residuals, top-k and the look-up of embeddings are not. [`DecoderConfig`] guarantees
//! that parameters fit 64 bits; the operations of a training run do not, so they are `u128`.
//!
//! ```
//! use deepwide::config::DecoderConfig;
//! use deepwide::profile::flops::{count_parameters, forward_flops_per_token};
//!
//! let (solar, mixtral) = (DecoderConfig::solar_10_7b(), DecoderConfig::mixtral_8x7b());
//! assert!(count_parameters(&solar).total < count_parameters(&mixtral).active);
//! assert_eq!(forward_flops_per_token(&solar, 16_392), forward_flops_per_token(&mixtral, 16_392));
//! ```

use serde::Serialize;

use crate::config::DecoderConfig;

/// The number of parameters of a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ParameterCount {
    /// All parameters; tied embeddings count once.
    pub total: u64,
    /// Parameters that one token uses: all but the experts that it does not visit.
    pub active: u64,
}

/// Counts the parameters of a decoder, with embeddings, norms and head.
///
/// `total = L·(P_attn + E·P_mlp + P_router + 2h) + h + 2·V·h`, and `active` the same with `k` for `E`; `V·h` once if
/// the embeddings are tied. `P_attn = 2h·d·(heads + kv_heads)`, `P_mlp = 3h·intermediate_size`, `P_router = h·E`; a
/// dense decoder has `E = k = 1` and no router (Jiang et al., 2024, arXiv:2401.04088, §2.1, for total and active).
pub fn count_parameters(config: &DecoderConfig) -> ParameterCount {
    let sizes = LayerSizes::of(config);
    let hidden = config.hidden_size as u64;
    let tables = if config.tie_word_embeddings { 1 } else { 2 };
    let with = |experts: u64| {
        let layer = sizes.attention + experts * sizes.mlp + sizes.router + 2 * hidden;
        config.num_hidden_layers as u64 * layer + hidden + tables * config.vocab_size as u64 * hidden
    };
    ParameterCount { total: with(sizes.experts), active: with(sizes.chosen) }
}

/// Weights that one token is multiplied with: `N_mm = L·(P_attn + k·P_mlp + P_router) + V·h`.
///
/// The head counts, tied or not; the look-up of embeddings multiplies nothing.
pub fn matmul_parameters(config: &DecoderConfig) -> u64 {
    let sizes = LayerSizes::of(config);
    let layer = sizes.attention + sizes.chosen * sizes.mlp + sizes.router;
    config.num_hidden_layers as u64 * layer + config.vocab_size as u64 * config.hidden_size as u64
}

/// Operations of a forward pass, by part of the decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FlopsBreakdown {
    /// Query, key, value and output projections.
    pub attention_projections: u128,
    /// `q·kᵀ` and the weighted sum of the values.
    pub attention_scores: u128,
    /// Gate, up and down of the MLP, or of the experts that each token visits.
    pub mlp: u128,
    /// Router scores; 0 in a dense decoder.
    pub router: u128,
    /// Logits, at every position.
    pub lm_head: u128,
}

impl FlopsBreakdown {
    /// The sum of all parts.
    ///
    /// # Panics
    /// If the sum reaches `2^128`.
    pub fn total(&self) -> u128 {
        [self.attention_projections, self.attention_scores, self.mlp, self.router, self.lm_head]
            .into_iter()
            .try_fold(0, u128::checked_add)
            .expect(COUNTABLE)
    }
}

/// Forward operations of one token that attends to `context` tokens, itself among them.
///
/// `F(t) = 2·N_mm + 4·L·heads·head_dim·min(t, sliding_window)` (Kaplan et al., 2020, arXiv:2001.08361, §2.1, Table 1,
/// with 4 instead of 2 because the score product and the value product are both counted). Grouped keys and values save
/// projections, not scores. A kernel that computes the whole `S × S` square of scores and masks half of it does `S·F(S)`
/// for a sequence.
pub fn forward_flops_per_token(config: &DecoderConfig, context: u64) -> u128 {
    breakdown(config, 1, u128::from(context.min(window(config)))).total()
}

/// Forward operations of `batch` sequences of `seq_length` tokens, each token attending to itself and the tokens before
/// it in the window: `batch · Σ_{i=1..S} F(i)`.
///
/// Without a window that is `batch · S · F((S+1)/2)`.
///
/// # Panics
/// If the count reaches `2^128`.
pub fn forward_flops(config: &DecoderConfig, batch: u64, seq_length: u64) -> u128 {
    forward_flops_breakdown(config, batch, seq_length).total()
}

/// [`forward_flops`] by part of the decoder.
///
/// # Panics
/// If a count reaches `2^128`.
pub fn forward_flops_breakdown(config: &DecoderConfig, batch: u64, seq_length: u64) -> FlopsBreakdown {
    let [batch, keys] = [u128::from(batch), attended(config, seq_length)];
    breakdown(config, product([batch, u128::from(seq_length)]), product([batch, keys]))
}

/// Forward operations of `new` tokens after `past` tokens whose keys and values are cached: `Σ_{i=past+1..past+new}
/// F(i)`, for one sequence.
///
/// # Panics
/// If the tokens reach `2^64` or the count `2^128`.
pub fn forward_flops_cached(config: &DecoderConfig, past: u64, new: u64) -> u128 {
    let all = past.checked_add(new).expect("fewer than 2^64 tokens");
    breakdown(config, u128::from(new), attended(config, all) - attended(config, past)).total()
}

/// Operations of one training step on `batch` sequences of `seq_length` tokens: forward, and backward at twice the
/// forward, since each product has two gradients (Kaplan et al., 2020, arXiv:2001.08361, §2.1).
///
/// Recomputation (which makes it 4 times the forward) and the optimizer are not counted.
///
/// # Panics
/// If the count reaches `2^128`.
pub fn train_flops(config: &DecoderConfig, batch: u64, seq_length: u64) -> u128 {
    product([3, forward_flops(config, batch, seq_length)])
}

/// [`train_flops`] under a low-rank adapter: frozen matrices have no gradient, so that their products cost as much backward as
/// forward, and attention scores twice as much. The adapter's own products are not counted; at rank `r` they are about
/// `3·r·(in + out) / (2·in·out)` of those of a matrix.
///
/// # Panics
/// If the count reaches `2^128`.
pub fn adapter_train_flops(config: &DecoderConfig, batch: u64, seq_length: u64) -> u128 {
    let forward = forward_flops_breakdown(config, batch, seq_length);
    product([2, forward.total()]).checked_add(forward.attention_scores).expect(COUNTABLE)
}

/// The bound that every [`DecoderConfig`] with a sane batch keeps.
const COUNTABLE: &str = "fewer than 2^128 operations or bytes";

/// Parameters in the matrices of one layer, and the MLPs that it has and uses; a dense layer has and uses one.
pub(super) struct LayerSizes {
    pub attention: u64,
    pub mlp: u64,
    pub router: u64,
    pub experts: u64,
    pub chosen: u64,
}

impl LayerSizes {
    pub fn of(config: &DecoderConfig) -> Self {
        let hidden = config.hidden_size as u64;
        let heads = config.num_attention_heads as u64 + config.num_key_value_heads as u64;
        let routed = config.moe.map(|moe| (moe.num_local_experts as u64, moe.num_experts_per_tok as u64));
        let (experts, chosen) = routed.unwrap_or((1, 1));
        Self {
            attention: 2 * hidden * heads * config.head_dim as u64,
            mlp: 3 * hidden * config.intermediate_size as u64,
            router: routed.map_or(0, |(experts, _)| hidden * experts),
            experts,
            chosen,
        }
    }
}

/// The product of counts.
///
/// # Panics
/// If it reaches `2^128`.
pub(super) fn product<const N: usize>(factors: [u128; N]) -> u128 {
    factors.into_iter().try_fold(1, u128::checked_mul).expect(COUNTABLE)
}

/// Number of tokens that a token may attend to.
pub(super) fn window(config: &DecoderConfig) -> u64 {
    config.sliding_window.map_or(u64::MAX, |window| window as u64)
}

/// Pairs of a token and a token that it attends to, in a sequence: `Σ_{i=1..S} min(i, window)`.
fn attended(config: &DecoderConfig, seq_length: u64) -> u128 {
    let growing = u128::from(seq_length.min(window(config)));
    growing * (growing + 1) / 2 + (u128::from(seq_length) - growing) * growing
}

fn breakdown(config: &DecoderConfig, tokens: u128, attended: u128) -> FlopsBreakdown {
    let sizes = LayerSizes::of(config);
    let layers = config.num_hidden_layers as u128;
    let [heads, head_dim] = [config.num_attention_heads, config.head_dim].map(|size| size as u128);
    let [vocab, hidden] = [config.vocab_size, config.hidden_size].map(|size| size as u128);
    FlopsBreakdown {
        attention_projections: product([2, tokens, layers, sizes.attention.into()]),
        attention_scores: product([4, attended, layers, heads, head_dim]),
        mlp: product([2, tokens, layers, sizes.chosen.into(), sizes.mlp.into()]),
        router: product([2, tokens, layers, sizes.router.into()]),
        lm_head: product([2, tokens, vocab, hidden]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windowed(window: usize) -> DecoderConfig {
        DecoderConfig::mixtral_8x7b().with(|f| f.sliding_window = Some(window)).unwrap()
    }

    #[test]
    fn a_tied_embedding_counts_once() {
        let tied = DecoderConfig::pico();
        let untied = tied.with(|f| f.tie_word_embeddings = false).unwrap();
        let table = (tied.vocab_size * tied.hidden_size) as u64;
        assert_eq!(count_parameters(&untied).total, count_parameters(&tied).total + table);
        assert_eq!(count_parameters(&untied).active, count_parameters(&tied).active + table);
        assert_eq!(matmul_parameters(&untied), matmul_parameters(&tied));
    }

    #[test]
    fn only_a_dense_decoder_uses_all_parameters_for_a_token() {
        for (config, whole) in [(DecoderConfig::pico(), true), (DecoderConfig::mixtral_8x7b(), false)] {
            let count = count_parameters(&config);
            assert_eq!(count.active == count.total, whole);
        }
    }

    #[test]
    fn the_sum_over_a_sequence_is_the_sum_of_its_tokens() {
        for config in [DecoderConfig::pico(), windowed(1), windowed(5), windowed(64)] {
            for seq_length in [0, 1, 4, 5, 6, 17] {
                let sum: u128 = (1..=seq_length).map(|i| forward_flops_per_token(&config, i)).sum();
                assert_eq!(forward_flops(&config, 1, seq_length), sum);
            }
        }
    }

    #[test]
    fn a_window_saves_only_scores() {
        let (full, narrow) = (DecoderConfig::mixtral_8x7b(), windowed(8));
        let [full, narrow] = [full, narrow].map(|config| forward_flops_breakdown(&config, 2, 32));
        assert!(narrow.attention_scores < full.attention_scores);
        assert_eq!(FlopsBreakdown { attention_scores: full.attention_scores, ..narrow }, full);
    }

    #[test]
    fn the_whole_square_of_scores_costs_nearly_twice_the_causal_half() {
        let (config, seq_length) = (DecoderConfig::mistral_7b(), 4096);
        let projections = 2 * u128::from(matmul_parameters(&config));
        let square = forward_flops_per_token(&config, seq_length) - projections;
        let causal = forward_flops(&config, 1, seq_length) - u128::from(seq_length) * projections;
        assert_eq!(u128::from(seq_length + 1) * square, 2 * causal);
    }

    #[test]
    fn an_adapter_saves_the_gradients_of_matrices() {
        let config = DecoderConfig::mixtral_8x7b();
        let FlopsBreakdown { attention_scores, .. } = forward_flops_breakdown(&config, 2, 640);
        let products = forward_flops(&config, 2, 640) - attention_scores;
        assert_eq!(train_flops(&config, 2, 640) - adapter_train_flops(&config, 2, 640), products);
    }

    #[test]
    fn training_on_trillions_of_tokens_is_counted() {
        let mixtral = DecoderConfig::mixtral_8x7b();
        let one = train_flops(&mixtral, 1, 4096);
        assert_eq!(train_flops(&mixtral, 1 << 32, 4096), one << 32);
        assert!(one << 32 > u128::from(u64::MAX));
    }

    #[test]
    fn a_decoder_near_the_limit_of_a_config_is_counted() {
        let huge = DecoderConfig::mixtral_8x7b().with(|f| f.intermediate_size = 1 << 41).unwrap();
        assert!(huge.with(|f| f.intermediate_size = 1 << 42).is_err());
        assert!(count_parameters(&huge).total > 1 << 61);
        assert!(train_flops(&huge, 1 << 20, 1 << 20) > 1 << 102);
    }

    #[test]
    #[should_panic(expected = "fewer than 2^128")]
    fn a_count_beyond_128_bits_is_refused() {
        forward_flops(&DecoderConfig::mistral_7b(), u64::MAX, u64::MAX);
    }

    #[test]
    #[should_panic(expected = "fewer than 2^64 tokens")]
    fn a_sequence_beyond_64_bits_is_refused() {
        forward_flops_cached(&DecoderConfig::mistral_7b(), u64::MAX, 1);
    }
}
