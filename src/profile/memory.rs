//! Bytes that a decoder keeps and moves, from its config alone: weights, the cache of keys and values, the reads of a
//! decoding step, and the state of training. The overhead of allocators is not included.
//!
//! ```
//! use deepwide::config::DecoderConfig;
//! use deepwide::profile::memory::kv_cache_bytes;
//!
//! let (solar, mixtral) = (DecoderConfig::solar_10_7b(), DecoderConfig::mixtral_8x7b());
//! assert_eq!(kv_cache_bytes(&mixtral, 1, 32_768, 2), 4 << 30);
//! assert_eq!(kv_cache_bytes(&solar, 1, 32_768, 2), 6 << 30);
//! ```

use super::flops::{LayerSizes, count_parameters, matmul_parameters, product, window};
use crate::config::DecoderConfig;
use crate::weights::Dtype;

/// Size of a statistic of a norm, a softmax or a router.
const STATISTIC_BYTES: u128 = 4;

/// Bytes of all weights, at `bytes_per_number` each; tied embeddings count once.
pub fn weight_bytes(config: &DecoderConfig, bytes_per_number: u64) -> u128 {
    product([count_parameters(config).total.into(), bytes_per_number.into()])
}

/// Bytes of a key or value in the cache of a model whose products have weights of this type: keys and values are bfloat16 where
/// bfloat16 weights give bfloat16 results, else float32.
pub fn cached_number_bytes(weights: Dtype, keeps_bfloat16: bool) -> u64 {
    let is_bfloat16 = keeps_bfloat16 && weights == Dtype::Bfloat16;
    let dtype = if is_bfloat16 { Dtype::Bfloat16 } else { Dtype::Float32 };
    dtype.size_bytes() as u64
}

/// Bytes of keys and values that one token adds to the cache: `2 · L · kv_heads · head_dim · bytes_per_number`.
///
/// Experts add nothing; layers add in proportion.
pub fn kv_cache_bytes_per_token(config: &DecoderConfig, bytes_per_number: u64) -> u128 {
    let [layers, heads, head_dim] =
        [config.num_hidden_layers, config.num_key_value_heads, config.head_dim].map(|size| size as u128);
    product([2, layers, heads, head_dim, bytes_per_number.into()])
}

/// Bytes of the cache of `batch` sequences of `seq_length` tokens, of which a sliding window keeps the last
/// `sliding_window`.
///
/// # Panics
/// If the count reaches `2^128`.
pub fn kv_cache_bytes(config: &DecoderConfig, batch: u64, seq_length: u64, bytes_per_number: u64) -> u128 {
    let kept = seq_length.min(window(config));
    product([kv_cache_bytes_per_token(config, bytes_per_number), batch.into(), kept.into()])
}

/// Expected number of different experts of a layer that `batch` tokens visit, if each token draws its experts uniformly
/// and independently: `E · (1 − (1 − k/E)^batch)`.
///
/// The batches of a trained router, which is not uniform, visit fewer.
///
/// # Panics
/// If `num_experts_per_tok` is not from 1 to `num_local_experts`.
pub fn expected_experts_hit(num_local_experts: usize, num_experts_per_tok: usize, batch: u64) -> f64 {
    assert!(
        (1..=num_local_experts).contains(&num_experts_per_tok),
        "a token cannot visit {num_experts_per_tok} of {num_local_experts} experts"
    );
    let experts = num_local_experts as f64;
    let missed = 1.0 - num_experts_per_tok as f64 / experts;
    experts * (1.0 - missed.powf(batch as f64))
}

/// Bytes of weights that one decoding step of `batch` sequences reads: every matrix once, but only the experts that the
/// batch is expected to visit.
///
/// `bytes_per_number · (N_mm + L · (E_hit − k) · P_mlp)`, with [`expected_experts_hit`] for `E_hit`. Embedding rows, one per
/// token, and the gains of the norms are left out: they are far below a thousandth of the rest.
pub fn decode_weight_bytes(config: &DecoderConfig, batch: u64, bytes_per_number: u64) -> f64 {
    let sizes = LayerSizes::of(config);
    let hit = config.moe.map_or(1.0, |moe| expected_experts_hit(moe.num_local_experts, moe.num_experts_per_tok, batch));
    let mlp = config.num_hidden_layers as f64 * sizes.mlp as f64;
    let read = matmul_parameters(config) as f64 + (hit - sizes.chosen as f64) * mlp;
    bytes_per_number as f64 * read
}

/// Bytes that one decoding step of `batch` sequences reads: [`decode_weight_bytes`], and the cache of the `context` tokens
/// that each sequence attends to, in numbers of the same size.
///
/// Divided by the memory bandwidth, it is a lower bound on the time of a step, as are the operations of the batch
/// ([`forward_flops_per_token`](super::flops::forward_flops_per_token)) divided by peak FLOP/s: the roofline (Williams et
/// al., 2009, doi:10.1145/1498765.1498785).
///
/// # Panics
/// If the bytes of the cache reach `2^128`.
pub fn decode_step_bytes(config: &DecoderConfig, batch: u64, context: u64, bytes_per_number: u64) -> f64 {
    let cache = kv_cache_bytes(config, batch, context, bytes_per_number);
    decode_weight_bytes(config, batch, bytes_per_number) + cache as f64
}

/// Bytes of the training state of AdamW in 32-bit floats: weight, gradient and two moments, 16 bytes per parameter.
///
/// Training in 16-bit floats with 32-bit copies of the weights takes the same: 2 + 2 + 4 + 4 + 4 (Rajbhandari et al.,
/// 2020, arXiv:1910.02054, §3.1). Every expert has its state, visited or not.
pub fn train_state_bytes(config: &DecoderConfig) -> u128 {
    product([16, count_parameters(config).total.into()])
}

/// Lower bound on the bytes of activations that all layers keep from forward to backward, if only attention scores are
/// recomputed.
///
/// In a layer, a token keeps the inputs of every product and of every non-linear step: `4h + 2·heads·head_dim +
/// 2·kv_heads·head_dim` numbers around attention and norms, `4·intermediate_size` in an MLP (gate, up, SiLU of the gate,
/// their product), `2h` more for each expert visited (its gathered input, its output); and in 32-bit floats one statistic
/// per head, norm and router score. The method is that of Korthikanti et al. (2022, arXiv:2205.05198, §4.1),
/// applied to a gated MLP, grouped heads and no dropout. Logits (4 bytes · `vocab_size` per token) come on top, and
/// the graph of automatic differentiation keeps more.
///
/// # Panics
/// If the count reaches `2^128`.
pub fn activation_bytes(config: &DecoderConfig, batch: u64, seq_length: u64, bytes_per_number: u64) -> u128 {
    let [hidden, intermediate, layers, heads, kv_heads, head_dim] = [
        config.hidden_size,
        config.intermediate_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
    ]
    .map(|size| size as u128);
    let (mlp, router_scores) = match config.moe {
        None => (4 * intermediate, 0),
        Some(moe) => {
            (product([moe.num_experts_per_tok as u128, 4 * intermediate + 2 * hidden]), moe.num_local_experts as u128)
        }
    };
    let numbers = 4 * hidden + 2 * (heads + kv_heads) * head_dim + mlp;
    let statistics = STATISTIC_BYTES * (heads + 2 + router_scores);
    let per_token = product([numbers, bytes_per_number.into()]) + statistics;
    product([per_token, layers, batch.into(), seq_length.into()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MoeConfig;

    fn moe(num_local_experts: usize, num_experts_per_tok: usize) -> DecoderConfig {
        let moe = MoeConfig { num_local_experts, num_experts_per_tok, router_aux_loss_coef: 0.0 };
        DecoderConfig::pico().with_experts(moe).unwrap()
    }

    #[test]
    fn one_token_reads_the_weights_of_its_products() {
        for config in [DecoderConfig::pico(), moe(4, 2), moe(4, 4), DecoderConfig::mixtral_8x7b()] {
            assert_eq!(decode_weight_bytes(&config, 1, 2), 2.0 * matmul_parameters(&config) as f64);
        }
    }

    #[test]
    fn only_a_mixture_reads_more_weights_for_a_larger_batch() {
        let all_chosen = matmul_parameters(&moe(4, 4)) as f64;
        assert!((decode_weight_bytes(&moe(4, 1), 1000, 1) / all_chosen - 1.0).abs() < 1e-12);
        assert!(decode_weight_bytes(&moe(4, 1), 2, 1) < all_chosen);
        let dense = DecoderConfig::pico();
        assert_eq!(decode_weight_bytes(&dense, 1000, 4), decode_weight_bytes(&dense, 1, 4));
    }

    #[test]
    fn the_expected_experts_are_the_mean_over_all_ways_to_route() {
        // 3 tokens, each visiting 2 of 4 experts: 6 pairs a token, 216 ways.
        let pairs = &[0b0011u32, 0b0101, 0b1001, 0b0110, 0b1010, 0b1100];
        let two = pairs.iter().flat_map(|a| pairs.iter().map(move |b| a | b));
        let hit: u32 = two.flat_map(|ab| pairs.iter().map(move |c| (ab | c).count_ones())).sum();
        assert_eq!(expected_experts_hit(4, 2, 3), f64::from(hit) / 216.0);
    }

    #[test]
    fn one_token_visits_the_experts_it_chose() {
        for (experts, chosen) in [(1, 1), (4, 4), (8, 2)] {
            assert_eq!(expected_experts_hit(experts, chosen, 0), 0.0);
            assert_eq!(expected_experts_hit(experts, chosen, 1), chosen as f64);
        }
    }

    #[test]
    #[should_panic(expected = "a token cannot visit 3 of 2 experts")]
    fn a_token_visits_no_more_experts_than_there_are() {
        expected_experts_hit(2, 3, 1);
    }

    #[test]
    #[should_panic(expected = "a token cannot visit 0 of 0 experts")]
    fn without_experts_there_is_nothing_to_expect() {
        expected_experts_hit(0, 0, 1);
    }

    #[test]
    fn the_cache_is_bfloat16_where_products_of_such_weights_are() {
        let of = |weights| [true, false].map(|keeps_bfloat16| cached_number_bytes(weights, keeps_bfloat16));
        assert_eq!([Dtype::Bfloat16, Dtype::Float16, Dtype::Float32].map(of), [[2, 4], [4, 4], [4, 4]]);
    }

    #[test]
    fn a_window_bounds_the_cache() {
        let mistral = DecoderConfig::mistral_7b();
        assert_eq!(kv_cache_bytes(&mistral, 3, 100, 2), 300 * kv_cache_bytes_per_token(&mistral, 2));
        assert_eq!(kv_cache_bytes(&mistral, 3, 32_768, 2), kv_cache_bytes(&mistral, 3, 4096, 2));
    }

    #[test]
    fn experts_fill_memory_but_not_the_cache() {
        let (dense, sparse) = (DecoderConfig::pico(), moe(8, 2));
        assert_eq!(kv_cache_bytes(&sparse, 2, 64, 4), kv_cache_bytes(&dense, 2, 64, 4));
        assert!(weight_bytes(&sparse, 4) > 6 * weight_bytes(&dense, 4));
        assert_eq!(train_state_bytes(&sparse), 4 * weight_bytes(&sparse, 4));
    }

    #[test]
    fn a_step_reads_its_weights_and_every_cache() {
        let config = moe(8, 2);
        let cache = decode_step_bytes(&config, 4, 64, 2) - decode_weight_bytes(&config, 4, 2);
        assert_eq!(cache, kv_cache_bytes(&config, 4, 64, 2) as f64);
    }

    #[test]
    fn one_expert_keeps_more_than_an_mlp_by_what_routing_adds() {
        let (dense, sparse) = (DecoderConfig::pico(), moe(1, 1));
        let added = activation_bytes(&sparse, 1, 1, 2) - activation_bytes(&dense, 1, 1, 2);
        assert_eq!(added, (dense.num_hidden_layers * (2 * 2 * dense.hidden_size + 4)) as u128);
    }

    #[test]
    #[should_panic(expected = "fewer than 2^128")]
    fn a_cache_beyond_128_bits_is_refused() {
        kv_cache_bytes(&DecoderConfig::pico(), u64::MAX, u64::MAX, 2);
    }
}
