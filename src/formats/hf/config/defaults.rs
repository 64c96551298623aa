//! The values of absent keys, as in the config classes of transformers.

use crate::config::{ModelType, MoeConfig};

/// Values of absent keys, by the config class of a family.
pub(super) struct FamilyDefaults {
    pub architecture: &'static str,
    pub num_key_value_heads: Option<usize>,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub sliding_window: Option<usize>,
}

pub(super) fn family_defaults(model_type: ModelType) -> FamilyDefaults {
    let llama = FamilyDefaults {
        architecture: "LlamaForCausalLM",
        num_key_value_heads: None,
        max_position_embeddings: 2048,
        rms_norm_eps: 1e-6,
        rope_theta: 1e4,
        sliding_window: None,
    };
    let mistral = FamilyDefaults {
        architecture: "MistralForCausalLM",
        num_key_value_heads: Some(8),
        max_position_embeddings: 131_072,
        sliding_window: Some(4096),
        ..llama
    };
    match model_type {
        ModelType::Llama => llama,
        ModelType::Mistral => mistral,
        ModelType::Mixtral => FamilyDefaults {
            architecture: "MixtralForCausalLM",
            rms_norm_eps: 1e-5,
            rope_theta: 1e6,
            sliding_window: None,
            ..mistral
        },
    }
}

pub(super) const MIXTRAL_EXPERTS: MoeConfig =
    MoeConfig { num_local_experts: 8, num_experts_per_tok: 2, router_aux_loss_coef: 0.001 };
