//! Writes a checked config as the keys of `config.json`.

use serde_json::{Map, Value, json};

use super::defaults::family_defaults;
use crate::config::{DecoderConfig, ModelType, RopeScaling};
use crate::weights::Dtype;

/// The keys of both dialects for this config, and the other keys of `carried`.
pub(in crate::formats::hf) fn to_json(
    config: &DecoderConfig,
    dtype: Dtype,
    carried: Map<String, Value>,
) -> Map<String, Value> {
    let mut keys = carried;
    // It names Python code that is not written beside the weights.
    keys.shift_remove("auto_map");
    // It follows from `sliding_window`, and would have the wrong number of layers.
    keys.shift_remove("layer_types");
    let mut set = |key: &str, value: Value| keys.insert(key.to_owned(), value);
    set("architectures", json!([family_defaults(config.model_type).architecture]));
    set("model_type", json!(config.model_type));
    set("vocab_size", json!(config.vocab_size));
    set("hidden_size", json!(config.hidden_size));
    set("intermediate_size", json!(config.intermediate_size));
    set("num_hidden_layers", json!(config.num_hidden_layers));
    set("num_attention_heads", json!(config.num_attention_heads));
    set("num_key_value_heads", json!(config.num_key_value_heads));
    set("head_dim", json!(config.head_dim));
    set("hidden_act", json!("silu"));
    set("max_position_embeddings", json!(config.max_position_embeddings));
    set("rms_norm_eps", json!(config.rms_norm_eps));
    set("rope_theta", json!(config.rope_theta));
    set("rope_scaling", rope_scaling_json(config));
    set("rope_parameters", rope_parameters_json(config));
    set("tie_word_embeddings", json!(config.tie_word_embeddings));
    set("torch_dtype", json!(dtype));
    set("dtype", json!(dtype));
    if let Some(moe) = config.moe {
        set("num_local_experts", json!(moe.num_local_experts));
        set("num_experts_per_tok", json!(moe.num_experts_per_tok));
        set("router_aux_loss_coef", json!(moe.router_aux_loss_coef));
    }
    if config.model_type == ModelType::Llama {
        keys.shift_remove("sliding_window");
    } else {
        keys.insert("sliding_window".to_owned(), json!(config.sliding_window));
    }
    keys.extend(config.unmodelled.clone());
    keys
}

fn rope_scaling_json(config: &DecoderConfig) -> Value {
    match config.rope_scaling {
        RopeScaling::Default => Value::Null,
        // Before 4.43, transformers takes exactly these two keys; later versions still read them.
        RopeScaling::Linear { factor } => json!({"type": "linear", "factor": factor}),
        scaling => json!(scaling),
    }
}

fn rope_parameters_json(config: &DecoderConfig) -> Value {
    let mut parameters = json!(config.rope_scaling);
    parameters["rope_theta"] = json!(config.rope_theta);
    parameters
}
