//! The conventions by which papers and tools count FLOPs.
//!
//! ```
//! use deepwide::profile::convention::{mfu, palm_flops_per_token};
//!
//! // PaLM 540B: 238.3 thousand tokens a second on 6144 TPU v4 of 275 TFLOP/s (arXiv:2204.02311, Appendix B).
//! let flops = palm_flops_per_token(540_350_000_000, 118, 48, 256, 2048);
//! assert_eq!(format!("{:.1} %", 100.0 * mfu(238_300.0, flops, 6144.0 * 275e12)), "46.2 %");
//! ```

use serde::Serialize;

use super::flops::product;

/// How FLOPs are counted. In each, a multiplication and the addition after it are two FLOPs, and the backward pass of a product
/// costs twice its forward pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FlopConvention {
    /// Matrix products, and the scores of each token with itself and the tokens before it in its window: the FLOPs that the
    /// kernels of this crate execute.
    #[default]
    Causal,
    /// Matrix products, and scores of each token with all keys, masked or not: the count of calflops, fvcore and DeepSpeed, which
    /// see dense products.
    Square,
    /// `6·N·D`: two FLOPs forward and four backward for each active parameter and token, embeddings and norms included, scores
    /// left out (Kaplan et al., 2020, arXiv:2001.08361, §2.1).
    #[serde(rename = "6nd")]
    SixNd,
    /// `(6·N + 12·L·H·Q·T)·D`: [`SixNd`](Self::SixNd) and scores of each token with all `T` keys, `H·Q` their width: the
    /// numerator of PaLM's model FLOPs utilization (Chowdhery et al., 2022, arXiv:2204.02311, Appendix B).
    Palm,
}

impl FlopConvention {
    /// Whether every parameter counts as a multiply-add, in place of the products that are computed.
    pub(super) fn counts_parameters(self) -> bool {
        matches!(self, Self::SixNd | Self::Palm)
    }
}

/// Training FLOPs of a token by PaLM's formula, `6·N + 12·L·H·Q·T`: no discount for causal masks, no recomputation.
///
/// # Panics
/// If the count reaches `2^128`.
pub fn palm_flops_per_token(parameters: u64, layers: u64, heads: u64, head_dim: u64, seq_length: u64) -> u128 {
    product([6, parameters.into()]) + product([12, layers.into(), heads.into(), head_dim.into(), seq_length.into()])
}

/// Model FLOPs utilization: the share of peak that tokens of this many FLOPs account for.
pub fn mfu(tokens_per_s: f64, flops_per_token: u128, peak_flops_per_s: f64) -> f64 {
    tokens_per_s * flops_per_token as f64 / peak_flops_per_s
}
