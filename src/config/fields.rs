//! The sizes and settings of a decoder, unchecked.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::rope_scaling::RopeScaling;

/// Family of a decoder, which decides the names of its tensors; `model_type` in `config.json`.
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
    /// Experts per token, `k`.
    pub num_experts_per_tok: usize,
    /// Weight of the load-balancing loss beside the language-model loss.
    pub router_aux_loss_coef: f64,
}

/// The sizes and settings of a decoder, unchecked.
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
    /// Width of one head, not necessarily `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Length of the longest sequence that the model supports, in tokens.
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
