//! The depth at which a deep decoder costs as much as a wide one.
//!
//! Depth up-scaling of `n` layers by overlap `m` gives `s = 2(n − m)`; upcycling gives a mixture of `E`
//! experts, `k` of them per token. Each cost here is linear in the number of layers, so the depth of equal cost is a
//! quotient, and the partner of the mixture has the nearest even number of layers.
//!
//! ```
//! use deepwide::config::DecoderConfig;
//! use deepwide::profile::matching::{Context, iso_flop_overlap};
//!
//! let base = DecoderConfig::mistral_7b();
//! let moe = DecoderConfig::mixtral_8x7b().moe.expect("a mixture of experts");
//! let partner = iso_flop_overlap(&base, moe, Context::CausalMean(4096))?;
//! assert_eq!((partner.overlap, partner.num_hidden_layers), (4, 56));
//! # Ok::<(), deepwide::profile::matching::MatchError>(())
//! ```

use serde::Serialize;

use super::flops::{count_parameters, forward_flops, forward_flops_per_token};
use crate::config::{ConfigError, DecoderConfig, MoeConfig};

/// The context at which operations are compared. Additional layers attend to it, additional experts do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Context {
    /// One token that attends to this many tokens, itself included, as in decoding.
    Fixed(u64),
    /// The mean over a sequence of this many tokens, as in training.
    CausalMean(u64),
}

/// The depth-up-scaled decoder whose cost is nearest to that of an upcycled one from the same base.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Match {
    /// The overlap `m`: layers dropped from each of the two copies; 0 where even two whole copies cost less.
    pub overlap: usize,
    /// Layers of the deep decoder, `2(n − m)`.
    pub num_hidden_layers: usize,
    /// Cost of the deep decoder relative to the wide one.
    pub ratio: f64,
    /// Layers to add to the base for exactly the cost of the wide decoder, if layers were divisible.
    pub exact_extra_layers: f64,
}

/// Why no partner exists.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MatchError {
    /// Deep and wide grow from the same dense decoder.
    #[error("the base has {num_local_experts} experts per layer already, expected a dense decoder")]
    AlreadySparse {
        /// Experts found.
        num_local_experts: usize,
    },
    /// A sequence of no tokens has no mean.
    #[error("the sequence has 0 tokens, expected at least 1")]
    EmptySequence,
    /// The config of the deep or of the wide decoder breaks a rule.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// The partner in forward operations per token at `context`, and so in operations of training.
///
/// `exact_extra_layers = L·2[(k−1)·P_mlp + h·E] / (2(P_attn + P_mlp) + 4·heads·head_dim·t)`, where `t` is the context, or
/// for a sequence of `S` tokens the mean `(S+1)/2`, each bounded by a sliding window. If the wide decoder costs more than
/// `2n` layers, the partner is `m = 0` and its `ratio` is below 1. On a tie, the partner has fewer layers.
///
/// # Errors
/// [`MatchError::AlreadySparse`], [`MatchError::EmptySequence`], [`MatchError::Config`].
///
/// # Panics
/// If a sequence is so long that its operations reach `2^128`.
pub fn iso_flop_overlap(base: &DecoderConfig, moe: MoeConfig, context: Context) -> Result<Match, MatchError> {
    match context {
        Context::CausalMean(0) => Err(MatchError::EmptySequence),
        Context::CausalMean(seq_length) => nearest(base, moe, |config| forward_flops(config, 1, seq_length)),
        Context::Fixed(context) => nearest(base, moe, |config| forward_flops_per_token(config, context)),
    }
}

/// The partner in active parameters, embeddings and norms included; ends and ties as in [`iso_flop_overlap`].
///
/// # Errors
/// [`MatchError::AlreadySparse`], [`MatchError::Config`].
pub fn iso_active_parameter_overlap(base: &DecoderConfig, moe: MoeConfig) -> Result<Match, MatchError> {
    nearest(base, moe, |config| count_parameters(config).active.into())
}

/// The partner in memory of the weights, and so in total parameters; ends and ties as in [`iso_flop_overlap`]. At
/// Mistral's proportions, three experts already take more than two whole copies.
///
/// # Errors
/// [`MatchError::AlreadySparse`], [`MatchError::Config`].
pub fn iso_memory_overlap(base: &DecoderConfig, moe: MoeConfig) -> Result<Match, MatchError> {
    nearest(base, moe, |config| count_parameters(config).total.into())
}

/// The partner by a cost that is linear in the number of layers and larger for `moe` than for `base`.
fn nearest(base: &DecoderConfig, moe: MoeConfig, cost: impl Fn(&DecoderConfig) -> u128) -> Result<Match, MatchError> {
    if let Some(moe) = base.moe {
        return Err(MatchError::AlreadySparse { num_local_experts: moe.num_local_experts });
    }
    let n = base.num_hidden_layers;
    let wide = cost(&base.with_experts(moe)?);
    let deep = |layers| base.with(|f| f.num_hidden_layers = layers).map(|config| cost(&config));
    let base = cost(base);
    let layer = deep(n + 1)? - base;
    let outside_layers = base - n as u128 * layer;

    let (pairs, rest) = ((wide - outside_layers) / (2 * layer), (wide - outside_layers) % (2 * layer));
    let pairs = if rest > layer { pairs + 1 } else { pairs }.min(n as u128) as usize;
    Ok(Match {
        overlap: n - pairs,
        num_hidden_layers: 2 * pairs,
        ratio: deep(2 * pairs)? as f64 / wide as f64,
        exact_extra_layers: (wide - base) as f64 / layer as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Solver = fn(&DecoderConfig, MoeConfig) -> Result<Match, MatchError>;

    fn moe(num_local_experts: usize, num_experts_per_tok: usize) -> MoeConfig {
        MoeConfig { num_local_experts, num_experts_per_tok, router_aux_loss_coef: 0.0 }
    }

    fn layers(num_hidden_layers: usize) -> DecoderConfig {
        DecoderConfig::pico().with(|f| f.num_hidden_layers = num_hidden_layers).unwrap()
    }

    /// Every overlap tried in turn, from the fewest layers up.
    fn tried(base: &DecoderConfig, moe: MoeConfig, cost: impl Fn(&DecoderConfig) -> u128) -> usize {
        let wide = cost(&base.with_experts(moe).unwrap());
        (0..base.num_hidden_layers)
            .rev()
            .min_by_key(|m| {
                let deep = base.with(|f| f.num_hidden_layers = 2 * (base.num_hidden_layers - m)).unwrap();
                cost(&deep).abs_diff(wide)
            })
            .unwrap()
    }

    #[test]
    fn the_partner_is_the_best_of_all_overlaps() {
        for n in 1..=9 {
            let base = layers(n);
            for (experts, chosen) in [(1, 1), (2, 1), (2, 2), (4, 2), (8, 2), (8, 8)] {
                let moe = moe(experts, chosen);
                let found = [
                    iso_flop_overlap(&base, moe, Context::Fixed(300)).unwrap(),
                    iso_flop_overlap(&base, moe, Context::CausalMean(77)).unwrap(),
                    iso_active_parameter_overlap(&base, moe).unwrap(),
                    iso_memory_overlap(&base, moe).unwrap(),
                ];
                let best = [
                    tried(&base, moe, |c| forward_flops_per_token(c, 300)),
                    tried(&base, moe, |c| forward_flops(c, 1, 77)),
                    tried(&base, moe, |c| count_parameters(c).active.into()),
                    tried(&base, moe, |c| count_parameters(c).total.into()),
                ];
                assert_eq!(found.map(|found| found.overlap), best, "{n} layers, {experts} experts, {chosen} chosen");
                assert!(found.iter().all(|found| found.num_hidden_layers == 2 * (n - found.overlap)));
            }
        }
    }

    #[test]
    fn adding_the_exact_layers_costs_what_the_experts_cost() {
        let base = DecoderConfig::mistral_7b();
        for seq_length in [1, 4096, 20_000] {
            let found = iso_flop_overlap(&base, moe(8, 2), Context::CausalMean(seq_length)).unwrap();
            let cost = |config: &DecoderConfig| forward_flops(config, 1, seq_length) as f64;
            let whole = cost(&base.with(|f| f.num_hidden_layers = 32 + 100).unwrap()) - cost(&base);
            let wide = cost(&base.with_experts(moe(8, 2)).unwrap());
            let grown = cost(&base) + found.exact_extra_layers / 100.0 * whole;
            assert!((grown / wide - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn on_a_tie_the_partner_has_fewer_layers() {
        // Two layers gain 3·8 weights of a second expert and 4 of a router each, 56 in all: one layer's 4·8 + 3·8.
        let base = DecoderConfig::pico()
            .with(|f| {
                f.hidden_size = 1;
                f.num_hidden_layers = 2;
                f.num_attention_heads = 1;
                f.num_key_value_heads = 1;
                f.head_dim = 8;
                f.intermediate_size = 8;
            })
            .unwrap();
        let found = iso_flop_overlap(&base, moe(4, 2), Context::Fixed(0)).unwrap();
        assert_eq!((found.exact_extra_layers, found.num_hidden_layers), (1.0, 2));
        let more = iso_flop_overlap(&base, moe(5, 2), Context::Fixed(0)).unwrap();
        assert_eq!(more.num_hidden_layers, 4);
    }

    #[test]
    fn beyond_two_whole_copies_the_partner_falls_short() {
        let found = iso_memory_overlap(&DecoderConfig::mistral_7b(), moe(8, 2)).unwrap();
        assert_eq!((found.overlap, found.num_hidden_layers), (0, 64));
        assert!(found.ratio < 0.31 && found.exact_extra_layers > 180.0, "{found:?}");
    }

    #[test]
    fn only_a_dense_base_has_a_partner() {
        let solvers: [Solver; 3] = [
            |base, moe| iso_flop_overlap(base, moe, Context::Fixed(1)),
            iso_active_parameter_overlap,
            iso_memory_overlap,
        ];
        for solver in solvers {
            let error = solver(&DecoderConfig::mixtral_8x7b(), moe(8, 2)).unwrap_err();
            assert_eq!(error, MatchError::AlreadySparse { num_local_experts: 8 });
            let error = solver(&DecoderConfig::pico(), moe(2, 3)).unwrap_err();
            assert_eq!(error, MatchError::Config(ConfigError::TooFewExperts { chosen: 3, available: 2 }));
        }
    }

    #[test]
    fn an_empty_sequence_has_no_mean() {
        let error = iso_flop_overlap(&DecoderConfig::pico(), moe(4, 2), Context::CausalMean(0)).unwrap_err();
        assert_eq!(error.to_string(), "the sequence has 0 tokens, expected at least 1");
    }
}
