//! Rows of config.json.

use std::fs;
use std::path::Path;

use ::safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use deepwide::formats::safetensors::SafetensorsFile;
use serde_json::{Value, json};

use super::*;

fn set(directory: &Path, key: &str, value: Value) {
    edit(directory, CONFIG, |config| config[key] = value);
}

fn unset(directory: &Path, keys: &[&str]) {
    edit(directory, CONFIG, |config| {
        keys.iter().for_each(|key| assert!(config.as_object_mut().unwrap().remove(*key).is_some()));
    });
}

fn llama_with(directory: &Path, key: &str, value: Value) {
    llama(directory);
    set(directory, key, value);
}

fn mixtral_with(directory: &Path, key: &str, value: Value) {
    mixtral(directory);
    set(directory, key, value);
}

/// A Llama whose rotary settings are only these keys.
fn llama_with_rope(directory: &Path, keys: Value) {
    llama(directory);
    unset(directory, &["rope_theta", "rope_scaling", "rope_parameters"]);
    edit(directory, CONFIG, |config| config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone()));
}

/// A Llama with this text before its first key.
fn llama_with_text(directory: &Path, text: &str) {
    llama(directory);
    let config = fs::read_to_string(directory.join(CONFIG)).unwrap();
    fs::write(directory.join(CONFIG), config.replacen('{', &format!("{{{text},"), 1)).unwrap();
}

/// A Llama with this text for its `config.json`.
fn llama_of_text(directory: &Path, text: &str) {
    llama(directory);
    fs::write(directory.join(CONFIG), text).unwrap();
}

/// Biases in one layer, as Qwen2 has them.
fn with_bias(directory: &Path) {
    untied(directory);
    set(directory, "tie_word_embeddings", json!(true));
    edit_header(directory, WEIGHTS, "lm_head.weight", "model.layers.0.self_attn.q_proj.bias");
}

/// A Llama whose tensors have this prefix in place of `model.`.
fn with_prefix(directory: &Path, prefix: &str) {
    llama(directory);
    let names = SafetensorsFile::open(&directory.join(WEIGHTS)).unwrap();
    for (name, _) in names.tensors().filter(|(name, _)| name.starts_with("model.")) {
        edit_header(directory, WEIGHTS, &format!("\"{name}\""), &format!("\"{}\"", name.replacen("model.", prefix, 1)));
    }
}

/// A Llama of which one matrix is of bytes, in a file of its own.
fn one_integer(directory: &Path) {
    llama(directory);
    let path = directory.join(WEIGHTS);
    let bytes = fs::read(&path).unwrap();
    let read = SafeTensors::deserialize(&bytes).unwrap();
    let up = "model.layers.1.mlp.up_proj.weight";
    let integers = TensorView::new(Dtype::I8, read.tensor(up).unwrap().shape().to_vec(), &[7; 24]).unwrap();
    let tensors =
        read.tensors().into_iter().map(|(name, view)| if name == up { (name, integers.clone()) } else { (name, view) });
    let file = serialize(tensors, None).unwrap();
    fs::write(path, file).unwrap();
}

/// Changes the last bytes of the head.
fn with_another_head(directory: &Path) {
    untied(directory);
    set(directory, "tie_word_embeddings", json!(true));
    let path = directory.join(WEIGHTS);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path, bytes).unwrap();
}

#[rustfmt::skip]
pub fn rows() -> Vec<Row> {
    vec![
        refused("D1", "an empty file", |d| llama_of_text(d, ""), "Malformed"),
        refused("D1", "a list", |d| llama_of_text(d, "[1]"), "Malformed"),
        refused("D1", "a byte order mark", |d| { llama(d); let text = fs::read_to_string(d.join(CONFIG)).unwrap(); fs::write(d.join(CONFIG), format!("\u{feff}{text}")).unwrap() }, "Malformed"),
        refused("D1", "bytes that are not UTF-8", |d| { llama(d); fs::write(d.join(CONFIG), b"{\"a\": \"\xff\"}").unwrap() }, "Malformed"),
        refused("D1", "a key twice", |d| llama_with_text(d, r#""hidden_size": 5"#), "RepeatedKey"),
        refused("D1", "a key twice that nobody reads", |d| llama_with_text(d, r#""x": 5, "x": 5"#), "RepeatedKey"),
        refused("D1", "a key twice in the rotary settings", |d| { llama(d); unset(d, &["rope_scaling", "rope_theta", "rope_parameters"]); let text = fs::read_to_string(d.join(CONFIG)).unwrap(); fs::write(d.join(CONFIG), text.replacen('{', r#"{"rope_scaling":{"rope_type":"linear","factor":2,"factor":4},"#, 1)).unwrap() }, "BadValue"),
        accepted("D2", "an infinity in a key that nobody reads", |d| llama_with_text(d, r#""time_step_limit": [0.0, Infinity]"#), 1, "Python's json writes it, and transformers reads it"),
        refused("D3", "NaN for rope_theta", |d| { llama_with_rope(d, json!({})); let text = fs::read_to_string(d.join(CONFIG)).unwrap(); fs::write(d.join(CONFIG), text.replacen('{', r#"{"rope_theta": NaN,"#, 1)).unwrap() }, "BadValue"),
        refused("D4", "rope_theta 0", |d| llama_with_rope(d, json!({"rope_theta": 0})), "Config"),
        refused("D4", "rope_theta below zero", |d| llama_with_rope(d, json!({"rope_theta": -1e4})), "Config"),
        refused("D4", "a string for rope_theta", |d| llama_with_rope(d, json!({"rope_theta": "10000"})), "BadValue"),
        accepted("D5", "the rotary settings of transformers 5", |d| llama_with_rope(d, json!({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}})), 0, "both dialects are read"),
        refused("D5", "two values of rope_theta", |d| llama_with(d, "rope_theta", json!(5e5)), "KeysDisagree"),
        refused("D5", "two scalings", |d| llama_with(d, "rope_scaling", json!({"rope_type": "linear", "factor": 4.0})), "KeysDisagree"),
        accepted("D6", "an unknown scaling", |d| llama_with_rope(d, json!({"rope_scaling": {"rope_type": "foo", "factor": 4.0}})), 1, "growth copies it"),
        accepted("D6", "a scaling that is not modelled", |d| llama_with_rope(d, json!({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0], "long_factor": [2.0]}})), 1, "growth copies it"),
        accepted("D6", "the same under its old key", |d| llama_with_rope(d, json!({"rope_scaling": {"type": "su", "short_factor": [1.0]}})), 1, "growth copies it"),
        accepted("D6", "YaRN", |d| llama_with_rope(d, json!({"rope_scaling": {"type": "yarn", "factor": 16.0, "original_max_position_embeddings": 16, "finetuned": true}})), 0, "it is computed"),
        accepted("D6", "dynamic scaling", |d| llama_with_rope(d, json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}})), 0, "it is computed"),
        refused("D6", "a factor of YaRN of 0", |d| llama_with_rope(d, json!({"rope_scaling": {"type": "yarn", "factor": 0}})), "Config"),
        refused("D6", "an unknown scaling beside another", |d| llama_with(d, "rope_scaling", json!({"rope_type": "foo", "factor": 4.0})), "KeysDisagree"),
        refused("D6", "a setting for each kind of layer", |d| llama_with(d, "rope_parameters", json!({"full_attention": {"rope_theta": 1e6}})), "Unsupported"),
        refused("D6", "a scaling without a type", |d| llama_with(d, "rope_scaling", json!({"factor": 4.0})), "MissingKey"),
        refused("D6", "a scaling without its factors", |d| llama_with(d, "rope_scaling", json!({"rope_type": "llama3", "factor": 4.0})), "MissingKey"),
        refused("D6", "a factor of 0", |d| llama_with_rope(d, json!({"rope_scaling": {"rope_type": "linear", "factor": 0}})), "Config"),
        accepted("D6", "a part of the head rotated", |d| llama_with(d, "partial_rotary_factor", json!(0.5)), 1, "growth copies it"),
        refused("D7", "no layers", |d| llama_with(d, "num_hidden_layers", json!(0)), "Config"),
        refused("D7", "layers below zero", |d| llama_with(d, "num_hidden_layers", json!(-1)), "BadValue"),
        refused("D7", "2^31 layers", |d| llama_with(d, "num_hidden_layers", json!(1u64 << 31)), "LayerCount"),
        refused("D7", "2^40 layers and none in the file", |d| { one_tensor(d, r#""a":E"#, &[0; 8]); set(d, "num_hidden_layers", json!(1u64 << 40)) }, "MissingTensor"),
        refused("D7", "a layer and a half", |d| llama_with(d, "num_hidden_layers", json!(1.5)), "BadValue"),
        refused("D7", "a string for a size", |d| llama_with(d, "hidden_size", json!("4")), "BadValue"),
        refused("D7", "a size missing", |d| { llama(d); unset(d, &["hidden_size"]) }, "Malformed"),
        refused("D7", "a model that no integer counts", |d| llama_with(d, "intermediate_size", json!(1u64 << 62)), "Config"),
        refused("D8", "no heads", |d| llama_with(d, "num_attention_heads", json!(0)), "Config"),
        refused("D9", "no key/value heads", |d| llama_with(d, "num_key_value_heads", json!(0)), "Config"),
        refused("D9", "3 key/value heads for 4 heads", |d| llama_with(d, "num_key_value_heads", json!(3)), "Config"),
        refused("D9", "more key/value heads than heads", |d| llama_with(d, "num_key_value_heads", json!(8)), "Config"),
        refused("D10", "heads that do not share the hidden size out", |d| { llama(d); unset(d, &["head_dim"]); set(d, "hidden_size", json!(6)) }, "NoHeadDim"),
        accepted("D11", "a head that is not the hidden size over the heads", llama, 0, "4 heads of 2 in a hidden size of 4"),
        refused("D11", "a head that is not that of the tensors", |d| llama_with(d, "head_dim", json!(4)), "ShapeMismatch"),
        refused("D12", "an odd head", |d| llama_with(d, "head_dim", json!(3)), "Config"),
        refused("D13", "another hidden size than the tensors have", |d| llama_with(d, "hidden_size", json!(8)), "ShapeMismatch"),
        refused("D14", "a layer more than the file has", |d| llama_with(d, "num_hidden_layers", json!(3)), "LayerCount"),
        refused("D14", "a hole among the layers", |d| { llama(d); edit_header(d, WEIGHTS, "layers.0.mlp.up_proj", "layers.1.mlp.mid_proj") }, "MissingTensor"),
        refused("D15", "a layer less than the file has", |d| llama_with(d, "num_hidden_layers", json!(1)), "LayerCount"),
        refused("D15", "a tensor that no decoder has", |d| { untied(d); set(d, "tie_word_embeddings", json!(true)); edit_header(d, WEIGHTS, "lm_head.weight", "model.layers.0.self_attn.q_norm.weight") }, "UnexpectedTensor"),
        accepted("D15", "rotary frequencies, which old files have", |d| { untied(d); set(d, "tie_word_embeddings", json!(true)); edit_header(d, WEIGHTS, "lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq") }, 0, "they follow from the config, and transformers passes them over"),
        accepted("D16", "another torch_dtype than the tensors have", |d| { llama(d); unset(d, &["dtype"]); set(d, "torch_dtype", json!("float16")) }, 1, "the tensors decide"),
        accepted("D16", "only the dtype of transformers 5", |d| { llama(d); unset(d, &["torch_dtype"]) }, 0, "both dialects are read"),
        accepted("D17", "a dtype that there is not", |d| llama_with(d, "dtype", json!("bfloat\u{1b}")), 1, "the tensors decide, and a child gets the right one"),
        refused("D18", "an unknown model_type", |d| llama_with(d, "model_type", json!("gpt2")), "Unsupported"),
        refused("D18", "no model_type", |d| { llama(d); unset(d, &["model_type"]) }, "Unsupported"),
        refused("D18", "another architecture", |d| llama_with(d, "architectures", json!(["SolarForCausalLM"])), "Unsupported"),
        accepted("D18", "no architecture", |d| llama_with(d, "architectures", json!([])), 1, "transformers chooses by model_type"),
        accepted("D18", "the architecture in another case", |d| llama_with(d, "architectures", json!(["LLaMAForCausalLM"])), 1, "transformers chooses by model_type"),
        accepted("D18", "the base class", |d| llama_with(d, "architectures", json!(["LlamaModel"])), 1, "transformers chooses by model_type"),
        refused("D18", "a model_type that is a number", |d| llama_with(d, "model_type", json!(7)), "Unsupported"),
        accepted("D19", "tied embeddings and no head", llama, 0, "the head is the embeddings"),
        refused("D20", "no tied embeddings and no head", |d| llama_with(d, "tie_word_embeddings", json!(false)), "MissingTensor"),
        accepted("D21", "tied embeddings and a head that is them", |d| { untied(d); set(d, "tie_word_embeddings", json!(true)) }, 0, "transformers ties them too"),
        refused("D21", "tied embeddings and another head", with_another_head, "HeadNotTied"),
        refused("D21", "tied embeddings and a head of another shape", |d| { untied(d); set(d, "tie_word_embeddings", json!(true)); edit_header(d, WEIGHTS, r#""lm_head.weight":{"dtype":"F32","shape":[8,4]"#, r#""lm_head.weight":{"dtype":"F32","shape":[4,8]"#) }, "HeadNotTied"),
        accepted("D22", "no word on tied embeddings, and a head", |d| { untied(d); unset(d, &["tie_word_embeddings"]) }, 0, "not tied is the default of all three families"),
        refused("D22", "no word on tied embeddings, and no head", |d| { llama(d); unset(d, &["tie_word_embeddings"]) }, "MissingTensor"),
        refused("D23", "biases in attention, by the config", |d| llama_with(d, "attention_bias", json!(true)), "Unsupported"),
        refused("D23", "biases in the MLP, by the config", |d| llama_with(d, "mlp_bias", json!(true)), "Unsupported"),
        refused("D23", "a bias among the tensors", with_bias, "UnexpectedTensor"),
        accepted("D23", "another activation", |d| llama_with(d, "hidden_act", json!("gelu")), 1, "growth copies it"),
        accepted("D23", "another name of the activation", |d| llama_with(d, "hidden_act", json!("swish")), 0, "it is the same function"),
        accepted("D24", "the attention of each layer, as it is", |d| llama_with(d, "layer_types", json!(["full_attention", "full_attention"])), 0, "it follows from sliding_window; a child does not have it"),
        refused("D24", "the attention of a layer too many", |d| llama_with(d, "layer_types", json!(["full_attention", "full_attention", "full_attention"])), "ListLength"),
        refused("D24", "layers of two kinds", |d| llama_with(d, "layer_types", json!(["sliding_attention", "full_attention"])), "Unsupported"),
        accepted("D24", "a window in a family without", |d| llama_with(d, "sliding_window", json!(4)), 1, "transformers ignores it"),
        refused("D25", "quantized weights", |d| llama_with(d, "quantization_config", json!({"quant_method": "gptq"})), "Unsupported"),
        refused("D26", "fewer embeddings than the vocabulary has", |d| llama_with(d, "vocab_size", json!(9)), "ShapeMismatch"),
        // transformers refuses it too: padded checkpoints have the padded size for their vocab_size.
        refused("D26", "more embeddings than the vocabulary has", |d| llama_with(d, "vocab_size", json!(7)), "ShapeMismatch"),
        refused("D27", "rms_norm_eps 0", |d| llama_with(d, "rms_norm_eps", json!(0)), "Config"),
        refused("D27", "rms_norm_eps below zero", |d| llama_with(d, "rms_norm_eps", json!(-1e-5)), "Config"),
        accepted("D27", "no rms_norm_eps", |d| { llama(d); unset(d, &["rms_norm_eps"]) }, 0, "the default of the family, which `inspect` prints"),
        refused("D28", "no positions", |d| llama_with(d, "max_position_embeddings", json!(0)), "Config"),
        accepted("D28", "2^40 positions", |d| llama_with(d, "max_position_embeddings", json!(1u64 << 40)), 0, "nothing is made of them when a checkpoint is opened or grown"),
        refused("D29", "no experts", |d| mixtral_with(d, "num_local_experts", json!(0)), "Config"),
        refused("D29", "no expert for a token", |d| mixtral_with(d, "num_experts_per_tok", json!(0)), "Config"),
        refused("D29", "more experts for a token than there are", |d| mixtral_with(d, "num_experts_per_tok", json!(5)), "Config"),
        refused("D29", "2^40 experts", |d| mixtral_with(d, "num_local_experts", json!(1u64 << 40)), "Unsupported"),
        refused("D30", "an expert more than the file has", |d| { mixtral(d); edit_header(d, WEIGHTS, "experts.3.w2.weight", "experts.4.w2.weight") }, "MissingTensor"),
        refused("D30", "an expert less than the router has", |d| mixtral_with(d, "num_local_experts", json!(3)), "ShapeMismatch"),
        accepted("D34", "tensors of the base class", |d| with_prefix(d, ""), 1, "transformers reads them"),
        accepted("D34", "tensors of a compiled model", |d| with_prefix(d, "_orig_mod.model."), 1, "torch.compile adds the prefix"),
        accepted("D34", "tensors of a compiled base class", |d| with_prefix(d, "_orig_mod."), 1, "torch.compile adds the prefix"),
        refused("D34", "tensors of a part of a larger model", |d| with_prefix(d, "language_model.model."), "MissingTensor"),
        refused("D35", "integers without their scales", |d| { one_integer(d) }, "Integers"),
        refused("D36", "an adapter", |d| { fs::create_dir(d).unwrap(); fs::write(d.join("adapter_config.json"), r#"{"peft_type": "LORA", "base_model_name_or_path": "org/base"}"#).unwrap() }, "Adapter"),
        accepted("D31", "remote code", |d| llama_with(d, "auto_map", json!({"AutoModelForCausalLM": "modeling_evil.Evil"})), 1, "nothing is run, and the tensors are those of the family"),
        refused("D32", "a number beyond all numbers", |d| { llama_with_rope(d, json!({})); let text = fs::read_to_string(d.join(CONFIG)).unwrap(); fs::write(d.join(CONFIG), text.replacen('{', r#"{"rope_theta": 1e400,"#, 1)).unwrap() }, "Malformed"),
        refused("D33", "a file of 500 MB", |d| { llama(d); stretch(&d.join(CONFIG), 500 << 20) }, "TooLarge"),
        refused("D33", "lists in one another, 1,000,000 deep", |d| llama_with_text(d, &format!("\"x\": {}{}", "[".repeat(1_000_000), "]".repeat(1_000_000))), "TooDeep"),
        refused("D33", "a million values", |d| llama_with_text(d, &format!("\"x\": [{}0]", "0,".repeat(999_999))), "TooMany"),
    ]
}
