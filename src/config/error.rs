//! The rules that a decoder's sizes can break.

use super::fields::ModelType;
use crate::error::cut;

/// Why a decoder cannot have these sizes.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A size that must be positive is zero.
    #[error("{field} is 0, expected at least 1")]
    Zero {
        /// The `config.json` key.
        field: &'static str,
    },
    /// Key/value heads must divide the query heads.
    #[error("num_attention_heads {num_attention_heads} is not a multiple of num_key_value_heads {num_key_value_heads}")]
    HeadsDoNotDivide {
        /// Query heads.
        num_attention_heads: usize,
        /// Key/value heads.
        num_key_value_heads: usize,
    },
    /// Rotary embedding rotates pairs of coordinates.
    #[error("head_dim {head_dim} is odd, expected an even number: rotary embedding rotates pairs of coordinates")]
    OddHeadDim {
        /// Width of one head.
        head_dim: usize,
    },
    /// A real number that must be finite and positive is not.
    #[error("{field} is {value}, expected a finite number above 0")]
    NotPositive {
        /// The `config.json` key.
        field: &'static str,
        /// The value.
        value: f64,
    },
    /// The ramp of Llama 3 scaling must run from low to high.
    #[error("low_freq_factor {low} is not below high_freq_factor {high}")]
    FrequencyFactorsOutOfOrder {
        /// `low_freq_factor`.
        low: f64,
        /// `high_freq_factor`.
        high: f64,
    },
    /// Llama has no sliding window; its code would ignore the key.
    #[error("model_type llama has sliding_window {sliding_window}, expected none")]
    LlamaWithWindow {
        /// The value.
        sliding_window: usize,
    },
    /// Mixtral without experts, or another family with experts.
    #[error(
        "model_type {model_type:?} with {num_local_experts} experts: expected experts in Mixtral and no other family"
    )]
    ExpertsDisagree {
        /// The family.
        model_type: ModelType,
        /// Number of experts; 0 for none.
        num_local_experts: usize,
    },
    /// More experts per token than there are.
    #[error("num_experts_per_tok {chosen} exceeds num_local_experts {available}")]
    TooFewExperts {
        /// `num_experts_per_tok`.
        chosen: usize,
        /// `num_local_experts`.
        available: usize,
    },
    /// The balancing coefficient is negative or not a number.
    #[error("router_aux_loss_coef is {value}, expected a finite number of at least 0")]
    BadAuxLossCoef {
        /// The value.
        value: f64,
    },
    /// The decoder does not compute this setting.
    #[error("{key} is {}, which can be copied but not computed", cut(.found))]
    Unmodelled {
        /// The `config.json` key.
        key: String,
        /// Its value.
        found: String,
    },
    /// The number of parameters exceeds 63 bits.
    #[error("the model would have more than 2^63 parameters")]
    TooLarge,
}
