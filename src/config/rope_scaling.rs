//! The scaling of rotary frequencies.

use serde::{Deserialize, Serialize};

/// Scaling of the rotary frequencies, for contexts longer than in pretraining.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
pub enum RopeScaling {
    /// `θ_i = rope_theta^(-2i/head_dim)`, not scaled.
    Default,
    /// All frequencies are divided by `factor` (position interpolation, Chen et al., 2023, arXiv:2306.15595).
    Linear {
        /// Ratio of the new context to the old.
        factor: f64,
    },
    /// Position interpolation beyond `max_position_embeddings` by a larger `rope_theta` ("dynamic NTK"); up to there, as
    /// `Default`.
    Dynamic {
        /// Ratio of the new context to the old.
        factor: f64,
    },
    /// YaRN: dimensions that rotate less than `beta_slow` times in the original context are divided by `factor`, those
    /// that rotate more than `beta_fast` times are kept, with a linear ramp in between, and queries and keys are
    /// multiplied by `attention_factor` (Peng et al., 2023, arXiv:2309.00071, §3.2–3.4).
    Yarn {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Context of pretraining, in tokens.
        original_max_position_embeddings: usize,
        /// Rotations above which a dimension is kept.
        beta_fast: f64,
        /// Rotations below which a dimension is divided by the full factor.
        beta_slow: f64,
        /// Factor of queries and keys.
        attention_factor: f64,
        /// Whether the ends of the ramp are rounded outwards to whole dimensions.
        truncate: bool,
    },
    /// Low frequencies are divided by `factor`, high ones kept, with a smooth ramp in between (Llama 3.1).
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are divided by the full factor.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context of pretraining, in tokens.
        original_max_position_embeddings: usize,
    },
}
