//! The checked shape of a decoder: what every other module may rely on.
//!
//! [`DecoderFields`] can hold nonsense; [`DecoderConfig`] cannot: it is made from fields by one
//! constructor that refuses every broken rule with its own [`ConfigError`]. Field names are those of
//! Hugging Face's `config.json`; reading that file belongs to `weights`.

use std::ops::Deref;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::cut;

/// Which published family a decoder belongs to; it names the tensors and the `model_type` on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelType {
    /// Llama 2/3, SmolLM2, SOLAR: dense, full attention.
    Llama,
    /// Mistral 7B: dense, optionally with a sliding window.
    Mistral,
    /// Mixtral: the MLP of every layer is a mixture of experts.
    Mixtral,
}

/// The mixture of experts that replaces each layer's MLP (Jiang et al., 2024, arXiv:2401.04088, §2.1).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MoeConfig {
    /// Experts per layer, `E`.
    pub num_local_experts: usize,
    /// Experts that each token visits, `k`.
    pub num_experts_per_tok: usize,
    /// Weight of the load-balancing loss beside the language-model loss.
    pub router_aux_loss_coef: f64,
}

/// How rotary frequencies are stretched for contexts longer than those of pretraining.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
pub enum RopeScaling {
    /// `θ_i = rope_theta^(-2i/head_dim)`, unchanged.
    Default,
    /// All frequencies divided by `factor` (position interpolation, Chen et al., 2023, arXiv:2306.15595).
    Linear {
        /// Ratio of the new context to the old.
        factor: f64,
    },
    /// Low frequencies divided by `factor`, high ones kept, a smooth ramp between (Llama 3.1).
    Llama3 {
        /// Division of the low frequencies.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are divided by the whole factor.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context of pretraining, in tokens.
        original_max_position_embeddings: usize,
    },
}

/// The sizes of a decoder as somebody wrote them: unchecked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecoderFields {
    /// The family.
    pub model_type: ModelType,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the gated MLP, or of each expert.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads per layer.
    pub num_attention_heads: usize,
    /// Key/value heads per layer; each serves `num_attention_heads / num_key_value_heads` query heads.
    pub num_key_value_heads: usize,
    /// Width of one head; need not be `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Longest sequence that the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// `ε` of RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Scaling of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// If set, a token attends to itself and the `sliding_window - 1` tokens before it.
    pub sliding_window: Option<usize>,
    /// Whether the output head is the embedding table.
    pub tie_word_embeddings: bool,
    /// The mixture of experts, or `None` for a dense decoder.
    pub moe: Option<MoeConfig>,
    /// Keys of `config.json` whose values growth copies and the decoder does not compute; empty for a decoder that can run.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub unmodelled: Map<String, Value>,
}

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
    /// Query heads cannot be shared out evenly among key/value heads.
    #[error("num_attention_heads {num_attention_heads} is not a multiple of num_key_value_heads {num_key_value_heads}")]
    HeadsDoNotDivide {
        /// Query heads.
        num_attention_heads: usize,
        /// Key/value heads.
        num_key_value_heads: usize,
    },
    /// Rotary embedding turns pairs of coordinates.
    #[error("head_dim {head_dim} is odd, expected an even number: rotary embedding turns pairs of coordinates")]
    OddHeadDim {
        /// Width of one head.
        head_dim: usize,
    },
    /// A real number that must be finite and positive is not.
    #[error("{field} is {value}, expected a finite number above 0")]
    NotPositive {
        /// The `config.json` key.
        field: &'static str,
        /// What was found.
        value: f64,
    },
    /// The ramp of Llama 3 scaling runs from low to high.
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
        /// What was found.
        sliding_window: usize,
    },
    /// Mixtral without experts, or experts in a dense family.
    #[error("model_type {model_type:?} with {num_local_experts} experts: exactly Mixtral has experts")]
    ExpertsDisagree {
        /// The family.
        model_type: ModelType,
        /// Experts found; 0 for none.
        num_local_experts: usize,
    },
    /// A token cannot visit more experts than there are.
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
        /// What was found.
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
    /// Some tensor, or the whole model, would exceed what 63 bits can count.
    #[error("the model would have more than 2^63 parameters")]
    TooLarge,
}

/// The checked shape of a decoder. Read its fields directly: `config.hidden_size`.
///
/// ```
/// use deepwide::config::DecoderConfig;
/// let solar = DecoderConfig::mistral_7b().with(|f| f.num_hidden_layers = 48)?;
/// assert_eq!(solar.num_hidden_layers, 48);
/// # Ok::<(), deepwide::config::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "DecoderFields", into = "DecoderFields")]
pub struct DecoderConfig(DecoderFields);

impl DecoderConfig {
    /// Checks the fields.
    ///
    /// # Errors
    /// The first broken rule, as its [`ConfigError`].
    pub fn new(fields: DecoderFields) -> Result<Self, ConfigError> {
        sizes_are_positive(&fields)?;
        attention_is_sound(&fields)?;
        rope_is_sound(&fields)?;
        experts_are_sound(&fields)?;
        if upper_bound_of_parameters(&fields) > i64::MAX as u128 {
            return Err(ConfigError::TooLarge);
        }
        Ok(Self(fields))
    }

    /// The same decoder with some fields changed, checked again.
    ///
    /// # Errors
    /// The first broken rule, as its [`ConfigError`].
    pub fn with(&self, change: impl FnOnce(&mut DecoderFields)) -> Result<Self, ConfigError> {
        let mut fields = self.0.clone();
        change(&mut fields);
        Self::new(fields)
    }

    /// The same decoder with each MLP replaced by a mixture of experts.
    ///
    /// # Errors
    /// [`ConfigError::TooFewExperts`], [`ConfigError::Zero`] or [`ConfigError::BadAuxLossCoef`].
    pub fn with_experts(&self, moe: MoeConfig) -> Result<Self, ConfigError> {
        self.with(|fields| {
            fields.model_type = ModelType::Mixtral;
            fields.moe = Some(moe);
        })
    }

    /// Checks that the decoder can run, not only be copied.
    ///
    /// # Errors
    /// [`ConfigError::Unmodelled`].
    pub fn computable(&self) -> Result<(), ConfigError> {
        match self.unmodelled.iter().next() {
            Some((key, found)) => Err(ConfigError::Unmodelled { key: key.clone(), found: found.to_string() }),
            None => Ok(()),
        }
    }

    /// Query heads per key/value head.
    pub fn num_query_groups(&self) -> usize {
        self.num_attention_heads / self.num_key_value_heads
    }

    /// Mistral 7B v0.1 (Jiang et al., 2023, arXiv:2310.06825, Table 1).
    pub fn mistral_7b() -> Self {
        preset(DecoderFields {
            model_type: ModelType::Mistral,
            vocab_size: 32_000,
            hidden_size: 4096,
            intermediate_size: 14_336,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: 8,
            head_dim: 128,
            max_position_embeddings: 32_768,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::Default,
            sliding_window: Some(4096),
            tie_word_embeddings: false,
            moe: None,
            unmodelled: Map::new(),
        })
    }

    /// Llama 2 7B (Touvron et al., 2023, arXiv:2307.09288).
    pub fn llama2_7b() -> Self {
        preset(DecoderFields {
            model_type: ModelType::Llama,
            intermediate_size: 11_008,
            num_key_value_heads: 32,
            max_position_embeddings: 4096,
            sliding_window: None,
            ..Self::mistral_7b().into()
        })
    }

    /// SOLAR 10.7B: Mistral 7B's weights in Llama's architecture, depth up-scaled with `m = 8`
    /// (Kim et al., 2023, arXiv:2312.15166, §2).
    pub fn solar_10_7b() -> Self {
        preset(DecoderFields {
            model_type: ModelType::Llama,
            num_hidden_layers: 48,
            max_position_embeddings: 4096,
            sliding_window: None,
            ..Self::mistral_7b().into()
        })
    }

    /// Mixtral 8x7B v0.1 (Jiang et al., 2024, arXiv:2401.04088, Table 1).
    pub fn mixtral_8x7b() -> Self {
        preset(DecoderFields {
            model_type: ModelType::Mixtral,
            rope_theta: 1e6,
            sliding_window: None,
            moe: Some(MoeConfig { num_local_experts: 8, num_experts_per_tok: 2, router_aux_loss_coef: 0.02 }),
            ..Self::mistral_7b().into()
        })
    }

    /// SmolLM2 135M (Allal et al., 2025, arXiv:2502.02737).
    pub fn smollm2_135m() -> Self {
        preset(DecoderFields {
            model_type: ModelType::Llama,
            vocab_size: 49_152,
            hidden_size: 576,
            intermediate_size: 1536,
            num_hidden_layers: 30,
            num_attention_heads: 9,
            num_key_value_heads: 3,
            head_dim: 64,
            max_position_embeddings: 8192,
            rope_theta: 100_000.0,
            sliding_window: None,
            tie_word_embeddings: true,
            ..Self::mistral_7b().into()
        })
    }

    /// The built-in base: a Llama of about a million parameters with Mistral's proportions
    /// (`intermediate_size` = 3.5 `hidden_size`, two query heads per key/value head).
    pub fn pico() -> Self {
        preset(DecoderFields {
            model_type: ModelType::Llama,
            vocab_size: 448,
            hidden_size: 96,
            intermediate_size: 336,
            num_hidden_layers: 8,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 24,
            max_position_embeddings: 512,
            rope_theta: 10_000.0,
            sliding_window: None,
            tie_word_embeddings: true,
            ..Self::mistral_7b().into()
        })
    }
}

impl Deref for DecoderConfig {
    type Target = DecoderFields;

    fn deref(&self) -> &DecoderFields {
        &self.0
    }
}

impl TryFrom<DecoderFields> for DecoderConfig {
    type Error = ConfigError;

    fn try_from(fields: DecoderFields) -> Result<Self, ConfigError> {
        Self::new(fields)
    }
}

impl From<DecoderConfig> for DecoderFields {
    fn from(config: DecoderConfig) -> Self {
        config.0
    }
}

fn preset(fields: DecoderFields) -> DecoderConfig {
    DecoderConfig::new(fields).expect("published sizes are sound")
}

fn sizes_are_positive(f: &DecoderFields) -> Result<(), ConfigError> {
    let sizes = [
        ("vocab_size", f.vocab_size),
        ("hidden_size", f.hidden_size),
        ("intermediate_size", f.intermediate_size),
        ("num_hidden_layers", f.num_hidden_layers),
        ("num_attention_heads", f.num_attention_heads),
        ("num_key_value_heads", f.num_key_value_heads),
        ("head_dim", f.head_dim),
        ("max_position_embeddings", f.max_position_embeddings),
        ("sliding_window", f.sliding_window.unwrap_or(1)),
    ];
    match sizes.into_iter().find(|(_, size)| *size == 0) {
        Some((field, _)) => Err(ConfigError::Zero { field }),
        None => positive("rms_norm_eps", f.rms_norm_eps),
    }
}

fn attention_is_sound(f: &DecoderFields) -> Result<(), ConfigError> {
    if !f.num_attention_heads.is_multiple_of(f.num_key_value_heads) {
        return Err(ConfigError::HeadsDoNotDivide {
            num_attention_heads: f.num_attention_heads,
            num_key_value_heads: f.num_key_value_heads,
        });
    }
    match (f.model_type, f.sliding_window) {
        (ModelType::Llama, Some(sliding_window)) => Err(ConfigError::LlamaWithWindow { sliding_window }),
        _ => Ok(()),
    }
}

fn rope_is_sound(f: &DecoderFields) -> Result<(), ConfigError> {
    if !f.head_dim.is_multiple_of(2) {
        return Err(ConfigError::OddHeadDim { head_dim: f.head_dim });
    }
    positive("rope_theta", f.rope_theta)?;
    match f.rope_scaling {
        RopeScaling::Default => Ok(()),
        RopeScaling::Linear { factor } => positive("factor", factor),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings,
        } => {
            positive("factor", factor)?;
            positive("low_freq_factor", low)?;
            positive("high_freq_factor", high)?;
            if low >= high {
                return Err(ConfigError::FrequencyFactorsOutOfOrder { low, high });
            }
            if original_max_position_embeddings == 0 {
                return Err(ConfigError::Zero { field: "original_max_position_embeddings" });
            }
            Ok(())
        }
    }
}

fn experts_are_sound(f: &DecoderFields) -> Result<(), ConfigError> {
    if (f.model_type == ModelType::Mixtral) != f.moe.is_some() {
        return Err(ConfigError::ExpertsDisagree {
            model_type: f.model_type,
            num_local_experts: f.moe.map_or(0, |moe| moe.num_local_experts),
        });
    }
    let Some(moe) = f.moe else { return Ok(()) };
    if moe.num_local_experts == 0 {
        return Err(ConfigError::Zero { field: "num_local_experts" });
    }
    if moe.num_experts_per_tok == 0 {
        return Err(ConfigError::Zero { field: "num_experts_per_tok" });
    }
    if moe.num_experts_per_tok > moe.num_local_experts {
        return Err(ConfigError::TooFewExperts { chosen: moe.num_experts_per_tok, available: moe.num_local_experts });
    }
    if !moe.router_aux_loss_coef.is_finite() || moe.router_aux_loss_coef < 0.0 {
        return Err(ConfigError::BadAuxLossCoef { value: moe.router_aux_loss_coef });
    }
    Ok(())
}

fn positive(field: &'static str, value: f64) -> Result<(), ConfigError> {
    if value.is_finite() && value > 0.0 { Ok(()) } else { Err(ConfigError::NotPositive { field, value }) }
}

/// At least the number of parameters, saturating: only to refuse what no integer can count.
fn upper_bound_of_parameters(f: &DecoderFields) -> u128 {
    let product = |sizes: &[usize]| sizes.iter().fold(1u128, |p, &s| p.saturating_mul(s as u128));
    let experts = f.moe.map_or(1, |moe| moe.num_local_experts);
    let heads = f.num_attention_heads.saturating_add(f.num_key_value_heads);
    let mlp = product(&[3, experts, f.intermediate_size, f.hidden_size]);
    let attention = product(&[2, f.hidden_size, heads, f.head_dim]);
    let layer = mlp.saturating_add(attention).saturating_add(product(&[experts.saturating_add(2), f.hidden_size]));
    layer.saturating_mul(f.num_hidden_layers as u128).saturating_add(product(&[
        2,
        f.vocab_size.saturating_add(1),
        f.hidden_size,
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut DecoderFields)) -> ConfigError {
        DecoderConfig::pico().with(change).unwrap_err()
    }

    fn moe(num_local_experts: usize, num_experts_per_tok: usize) -> MoeConfig {
        MoeConfig { num_local_experts, num_experts_per_tok, router_aux_loss_coef: 0.02 }
    }

    #[test]
    fn every_size_is_at_least_one() {
        type Change = fn(&mut DecoderFields);
        let zeroed: [(&str, Change); 9] = [
            ("vocab_size", |f| f.vocab_size = 0),
            ("hidden_size", |f| f.hidden_size = 0),
            ("intermediate_size", |f| f.intermediate_size = 0),
            ("num_hidden_layers", |f| f.num_hidden_layers = 0),
            ("num_attention_heads", |f| f.num_attention_heads = 0),
            ("num_key_value_heads", |f| f.num_key_value_heads = 0),
            ("head_dim", |f| f.head_dim = 0),
            ("max_position_embeddings", |f| f.max_position_embeddings = 0),
            ("sliding_window", |f| {
                f.model_type = ModelType::Mistral;
                f.sliding_window = Some(0);
            }),
        ];
        for (field, change) in zeroed {
            assert_eq!(refused(change), ConfigError::Zero { field });
        }
    }

    #[test]
    fn query_heads_divide_evenly_among_key_value_heads() {
        assert_eq!(
            refused(|f| f.num_key_value_heads = 3),
            ConfigError::HeadsDoNotDivide { num_attention_heads: 4, num_key_value_heads: 3 }
        );
    }

    #[test]
    fn rotary_embedding_needs_an_even_head() {
        assert_eq!(refused(|f| f.head_dim = 23), ConfigError::OddHeadDim { head_dim: 23 });
    }

    #[test]
    fn real_numbers_are_finite_and_positive() {
        assert_eq!(refused(|f| f.rope_theta = 0.0), ConfigError::NotPositive { field: "rope_theta", value: 0.0 });
        assert_eq!(
            refused(|f| f.rms_norm_eps = -1e-5),
            ConfigError::NotPositive { field: "rms_norm_eps", value: -1e-5 }
        );
        assert!(matches!(
            refused(|f| f.rope_scaling = RopeScaling::Linear { factor: f64::NAN }),
            ConfigError::NotPositive { field: "factor", .. }
        ));
    }

    #[test]
    fn llama3_scaling_ramps_from_low_to_high() {
        let scaling = |low, high, original| RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: original,
        };
        assert_eq!(
            refused(|f| f.rope_scaling = scaling(4.0, 1.0, 128)),
            ConfigError::FrequencyFactorsOutOfOrder { low: 4.0, high: 1.0 }
        );
        assert_eq!(
            refused(|f| f.rope_scaling = scaling(1.0, 4.0, 0)),
            ConfigError::Zero { field: "original_max_position_embeddings" }
        );
    }

    #[test]
    fn llama_has_no_sliding_window() {
        assert_eq!(refused(|f| f.sliding_window = Some(8)), ConfigError::LlamaWithWindow { sliding_window: 8 });
    }

    #[test]
    fn exactly_mixtral_has_experts() {
        assert_eq!(
            refused(|f| f.moe = Some(moe(8, 2))),
            ConfigError::ExpertsDisagree { model_type: ModelType::Llama, num_local_experts: 8 }
        );
        assert_eq!(
            refused(|f| f.model_type = ModelType::Mixtral),
            ConfigError::ExpertsDisagree { model_type: ModelType::Mixtral, num_local_experts: 0 }
        );
    }

    #[test]
    fn a_token_cannot_choose_more_experts_than_there_are() {
        let error = DecoderConfig::pico().with_experts(moe(8, 9)).unwrap_err();
        assert_eq!(error, ConfigError::TooFewExperts { chosen: 9, available: 8 });
        let error = DecoderConfig::pico().with_experts(moe(0, 0)).unwrap_err();
        assert_eq!(error, ConfigError::Zero { field: "num_local_experts" });
        let error = DecoderConfig::pico().with_experts(moe(8, 0)).unwrap_err();
        assert_eq!(error, ConfigError::Zero { field: "num_experts_per_tok" });
    }

    #[test]
    fn the_balancing_loss_is_not_negative() {
        let bad = MoeConfig { router_aux_loss_coef: -0.1, ..moe(8, 2) };
        let error = DecoderConfig::pico().with_experts(bad).unwrap_err();
        assert_eq!(error, ConfigError::BadAuxLossCoef { value: -0.1 });
    }

    #[test]
    fn a_model_that_no_integer_can_count_is_refused() {
        assert_eq!(refused(|f| f.hidden_size = 1 << 62), ConfigError::TooLarge);
    }

    #[test]
    fn a_config_survives_json_and_is_checked_on_the_way_in() {
        let config = DecoderConfig::mixtral_8x7b();
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<DecoderConfig>(&json).unwrap(), config);
        let broken = json.replace("\"num_experts_per_tok\":2", "\"num_experts_per_tok\":9");
        assert!(serde_json::from_str::<DecoderConfig>(&broken).is_err());
    }
}
