//! Configs of published models, by name.

use serde_json::Map;

use super::decoder::DecoderConfig;
use super::fields::{DecoderFields, ModelType, MoeConfig};
use super::rope_scaling::RopeScaling;

/// A preset: its name, and the config.
type Preset = (&'static str, fn() -> DecoderConfig);

const PRESETS: [Preset; 6] = [
    ("mistral-7b", DecoderConfig::mistral_7b),
    ("llama2-7b", DecoderConfig::llama2_7b),
    ("solar-10.7b", DecoderConfig::solar_10_7b),
    ("mixtral-8x7b", DecoderConfig::mixtral_8x7b),
    ("smollm2-135m", DecoderConfig::smollm2_135m),
    ("pico", DecoderConfig::pico),
];

impl DecoderConfig {
    /// The preset of this name, in lower case: `mistral-7b`, `llama2-7b`, `solar-10.7b`, `mixtral-8x7b`, `smollm2-135m`, `pico`.
    pub fn preset(name: &str) -> Option<Self> {
        PRESETS.iter().find(|(preset, _)| *preset == name).map(|(_, config)| config())
    }

    /// The names of all presets.
    pub fn preset_names() -> [&'static str; PRESETS.len()] {
        PRESETS.map(|(name, _)| name)
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

fn preset(fields: DecoderFields) -> DecoderConfig {
    DecoderConfig::new(fields).expect("published sizes are sound")
}
