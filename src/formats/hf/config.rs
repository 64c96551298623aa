//! Reads `config.json` into a checked [`DecoderConfig`], and writes it back.
//!
//! Absent keys get the defaults of the family's config class in transformers. Settings that transformers ignores are
//! passed over with a remark. Settings that the decoder does not compute but copying preserves become
//! [unmodelled](crate::config::DecoderFields::unmodelled) keys; those that call for other tensors are refused.

mod defaults;
mod fault;
mod lenient;
mod rope;
mod write;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use self::defaults::{MIXTRAL_EXPERTS, family_defaults};
pub use self::fault::{ConfigFault, HfConfigError};
use self::lenient::Lenient;
use self::rope::{RopeFields, RopeKeys, Scaling};
pub(super) use self::write::to_json;
use crate::config::{DecoderConfig, DecoderFields, ModelType, MoeConfig, RopeScaling};
use crate::formats::Remark;
use crate::formats::json::Pairs;

/// The keys that are read: flat, and mostly optional.
#[derive(Debug, Deserialize)]
struct HfConfig {
    architectures: Option<Vec<String>>,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    #[serde(default, deserialize_with = "present")]
    num_key_value_heads: Option<Option<usize>>,
    head_dim: Option<usize>,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeFields>,
    rope_parameters: Option<RopeFields>,
    #[serde(default, deserialize_with = "present")]
    sliding_window: Option<Option<usize>>,
    tie_word_embeddings: Option<bool>,
    num_local_experts: Option<usize>,
    num_experts_per_tok: Option<usize>,
    router_aux_loss_coef: Option<f64>,
    hidden_act: Option<String>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    partial_rotary_factor: Option<f64>,
    quantization_config: Option<Value>,
    layer_types: Option<Vec<String>>,
}

/// Limit on the experts of a layer. More would have to be listed before a file could contradict them.
const MOST_EXPERTS: usize = 65_536;

/// The content of a `config.json`.
pub(super) struct Parsed {
    pub config: DecoderConfig,
    /// All keys with their values, but for those that JSON cannot hold.
    pub keys: Map<String, Value>,
    pub remarks: Vec<Remark>,
}

/// Parses the text of a `config.json`.
pub(super) fn parse(text: &[u8]) -> Result<Parsed, ConfigFault> {
    let Lenient { text, non_finite } = lenient::read(text)?;
    let pairs: Pairs<Value> = serde_json::from_slice(&text).map_err(ConfigFault::Malformed)?;
    if let Some(key) = pairs.duplicate() {
        return Err(ConfigFault::RepeatedKey { key: key.to_owned() });
    }
    let mut keys: Map<String, Value> = pairs.0.into_iter().collect();
    let model_type = model_type(&keys)?;
    let raw: HfConfig = serde_json::from_slice(&text).map_err(|source| bad_value(&text, source))?;
    refuse_other_tensors(&raw)?;
    let mut remarks = Vec::new();
    remarks.extend(architecture_remark(model_type, raw.architectures.as_deref())?);
    let config = DecoderConfig::new(fields(model_type, raw, &keys, &mut remarks)?)?;
    for key in non_finite {
        if keys.shift_remove(&key).is_some() {
            remarks.push(Remark::NonFiniteKey { key });
        }
    }
    if keys.get("auto_map").is_some_and(|value| !value.is_null()) {
        remarks.push(Remark::RemoteCode);
    }
    // The rotary settings are there in both dialects.
    let unmodelled = config.unmodelled.iter().filter(|(key, _)| *key != "rope_parameters");
    remarks.extend(unmodelled.map(|(key, value)| Remark::Unmodelled { key: key.clone(), found: value.to_string() }));
    Ok(Parsed { config, keys, remarks })
}

/// Adds the key, which serde_json does not report.
fn bad_value(text: &[u8], source: serde_json::Error) -> ConfigFault {
    match lenient::key_at(text, source.line(), source.column()) {
        Some(key) if source.is_data() => ConfigFault::BadValue { key, source },
        _ => ConfigFault::Malformed(source),
    }
}

fn model_type(keys: &Map<String, Value>) -> Result<ModelType, ConfigFault> {
    let found = keys.get("model_type").unwrap_or(&Value::Null);
    let expected = "\"llama\", \"mistral\" or \"mixtral\"";
    ModelType::deserialize(found).map_err(|_| ConfigFault::unsupported("model_type", found, expected))
}

/// transformers chooses the class by `model_type`. `architectures` may be empty, spell the name in another case, or name
/// another class of the family; the name of another family contradicts `model_type`.
fn architecture_remark(model_type: ModelType, found: Option<&[String]>) -> Result<Option<Remark>, ConfigFault> {
    let expected = family_defaults(model_type).architecture;
    let Some(found) = found.filter(|found| **found != [expected]) else { return Ok(None) };
    let family = expected.trim_end_matches("ForCausalLM").to_ascii_lowercase();
    if !found.iter().all(|name| name.to_ascii_lowercase().starts_with(&family)) {
        return Err(ConfigFault::unsupported("architectures", found, expected));
    }
    Ok(Some(Remark::ReadAs { key: "architectures", found: json!(found).to_string(), read_as: expected }))
}

/// Refuses settings with tensors that a decoder does not have.
fn refuse_other_tensors(raw: &HfConfig) -> Result<(), ConfigFault> {
    for (key, found) in [("attention_bias", raw.attention_bias), ("mlp_bias", raw.mlp_bias)] {
        if found == Some(true) {
            return Err(ConfigFault::unsupported(key, true, "false"));
        }
    }
    if let Some(found) = raw.num_local_experts.filter(|found| *found > MOST_EXPERTS) {
        return Err(ConfigFault::unsupported("num_local_experts", found, "at most 65536"));
    }
    match &raw.quantization_config {
        Some(found) => Err(ConfigFault::unsupported("quantization_config", found, "none")),
        None => Ok(()),
    }
}

/// Checks the list of each layer's attention against `sliding_window`.
fn layer_types_agree(
    layer_types: &[String],
    num_hidden_layers: usize,
    sliding_window: Option<usize>,
) -> Result<(), ConfigFault> {
    let (key, found) = ("layer_types", layer_types.len());
    if found != num_hidden_layers {
        return Err(ConfigFault::ListLength { key, found, expected: num_hidden_layers });
    }
    let (only, expected) = match sliding_window {
        None => ("full_attention", "full_attention for every layer, as there is no sliding_window"),
        Some(_) => ("sliding_attention", "sliding_attention for every layer, as there is a sliding_window"),
    };
    match layer_types.iter().find(|layer_type| *layer_type != only) {
        Some(other) => Err(ConfigFault::unsupported(key, other, expected)),
        None => Ok(()),
    }
}

fn fields(
    model_type: ModelType,
    raw: HfConfig,
    keys: &Map<String, Value>,
    remarks: &mut Vec<Remark>,
) -> Result<DecoderFields, ConfigFault> {
    let defaults = family_defaults(model_type);
    let mut unmodelled = Map::new();
    // `swish` is another name of SiLU.
    if let Some(found) = raw.hidden_act.filter(|found| !["silu", "swish"].contains(&&**found)) {
        unmodelled.insert("hidden_act".to_owned(), json!(found));
    }
    if let Some(found) = raw.partial_rotary_factor.filter(|found| *found != 1.0) {
        unmodelled.insert("partial_rotary_factor".to_owned(), json!(found));
    }
    let max_position_embeddings = raw.max_position_embeddings.unwrap_or(defaults.max_position_embeddings);
    let rope = RopeKeys {
        rope_theta: raw.rope_theta,
        rope_scaling: raw.rope_scaling.as_ref(),
        rope_parameters: raw.rope_parameters.as_ref(),
        keys,
        max_position_embeddings,
    };
    let (rope_theta, scaling) = rope.agreed()?;
    let rope_theta = rope_theta.unwrap_or(defaults.rope_theta);
    let rope_scaling = match scaling {
        None => RopeScaling::Default,
        Some(Scaling::Modelled(scaling)) => scaling,
        Some(Scaling::Other(keys)) => {
            let mut parameters = keys.clone();
            parameters.insert("rope_theta".to_owned(), json!(rope_theta));
            unmodelled.insert("rope_scaling".to_owned(), Value::Object(keys));
            unmodelled.insert("rope_parameters".to_owned(), Value::Object(parameters));
            RopeScaling::Default
        }
    };
    let heads = raw.num_attention_heads;
    let sliding_window = match raw.sliding_window.unwrap_or(defaults.sliding_window) {
        // A leftover of another family.
        Some(found) if model_type == ModelType::Llama => {
            let found = found.to_string();
            remarks.push(Remark::ReadAs { key: "sliding_window", found, read_as: "null, as llama has none" });
            None
        }
        sliding_window => sliding_window,
    };
    if let Some(layer_types) = &raw.layer_types {
        layer_types_agree(layer_types, raw.num_hidden_layers, sliding_window)?;
    }
    let moe = MoeConfig {
        num_local_experts: raw.num_local_experts.unwrap_or(MIXTRAL_EXPERTS.num_local_experts),
        num_experts_per_tok: raw.num_experts_per_tok.unwrap_or(MIXTRAL_EXPERTS.num_experts_per_tok),
        router_aux_loss_coef: raw.router_aux_loss_coef.unwrap_or(MIXTRAL_EXPERTS.router_aux_loss_coef),
    };
    Ok(DecoderFields {
        model_type,
        vocab_size: raw.vocab_size,
        hidden_size: raw.hidden_size,
        intermediate_size: raw.intermediate_size,
        num_hidden_layers: raw.num_hidden_layers,
        num_attention_heads: heads,
        num_key_value_heads: raw.num_key_value_heads.unwrap_or(defaults.num_key_value_heads).unwrap_or(heads),
        head_dim: raw.head_dim.map_or_else(|| even_share(raw.hidden_size, heads), Ok)?,
        max_position_embeddings,
        rms_norm_eps: raw.rms_norm_eps.unwrap_or(defaults.rms_norm_eps),
        rope_theta,
        rope_scaling,
        sliding_window,
        tie_word_embeddings: raw.tie_word_embeddings.unwrap_or(false),
        moe: (model_type == ModelType::Mixtral).then_some(moe),
        unmodelled,
    })
}

/// `hidden_size / num_attention_heads`. [`DecoderConfig`] refuses zero heads.
fn even_share(hidden_size: usize, num_attention_heads: usize) -> Result<usize, ConfigFault> {
    match hidden_size.checked_rem(num_attention_heads) {
        None | Some(0) => Ok(hidden_size.checked_div(num_attention_heads).unwrap_or(hidden_size)),
        Some(_) => Err(ConfigFault::NoHeadDim { hidden_size, num_attention_heads }),
    }
}

/// Distinguishes an absent key (`None`) from a null (`Some(None)`).
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::weights::Dtype;

    fn parsed(text: &Value) -> Result<DecoderConfig, ConfigFault> {
        parse(text.to_string().as_bytes()).map(|parsed| parsed.config)
    }

    fn smallest(model_type: &str) -> Value {
        json!({"model_type": model_type, "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
               "num_hidden_layers": 2, "num_attention_heads": 8})
    }

    fn with(mut config: Value, changes: Value) -> Value {
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        config
    }

    fn llama3() -> RopeScaling {
        RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        }
    }

    fn yarn(factor: f64, attention_factor: f64) -> RopeScaling {
        RopeScaling::Yarn {
            factor,
            original_max_position_embeddings: 4096,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor,
            truncate: true,
        }
    }

    #[test]
    fn absent_keys_of_yarn_have_the_defaults_of_transformers() {
        let scaling = |keys: Value| {
            let config = json!({"max_position_embeddings": 65536, "rope_scaling": keys});
            parsed(&with(smallest("llama"), config)).unwrap().rope_scaling
        };
        let keys = json!({"type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096, "finetuned": true});
        let attention_factor = 0.1 * 16f64.ln() + 1.0;
        assert_eq!(scaling(keys), yarn(16.0, attention_factor));
        let keys = json!({"rope_type": "yarn", "factor": null, "original_max_position_embeddings": 4096});
        assert_eq!(scaling(keys), yarn(16.0, attention_factor));
        let keys = json!({"rope_type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "mscale": 0.707,
            "mscale_all_dim": 0.5});
        let ratio = (0.0707 * 40f64.ln() + 1.0) / (0.05 * 40f64.ln() + 1.0);
        assert!(
            matches!(scaling(keys), RopeScaling::Yarn { attention_factor, .. } if (attention_factor - ratio).abs() < 1e-12)
        );
    }

    #[test]
    fn absent_keys_have_the_defaults_of_the_family() {
        let llama = parsed(&smallest("llama")).unwrap();
        assert_eq!((llama.num_key_value_heads, llama.head_dim, llama.max_position_embeddings), (8, 4, 2048));
        assert_eq!((llama.rms_norm_eps, llama.rope_theta, llama.sliding_window), (1e-6, 1e4, None));
        let mistral = parsed(&smallest("mistral")).unwrap();
        assert_eq!((mistral.num_key_value_heads, mistral.max_position_embeddings), (8, 131_072));
        assert_eq!((mistral.rms_norm_eps, mistral.rope_theta, mistral.sliding_window), (1e-6, 1e4, Some(4096)));
        let mixtral = parsed(&smallest("mixtral")).unwrap();
        assert_eq!((mixtral.rms_norm_eps, mixtral.rope_theta, mixtral.sliding_window), (1e-5, 1e6, None));
        assert_eq!(mixtral.moe, Some(MIXTRAL_EXPERTS));
        for config in [llama, mistral, mixtral] {
            assert!(!config.tie_word_embeddings);
            assert_eq!(config.rope_scaling, RopeScaling::Default);
        }
    }

    #[test]
    fn null_is_not_absence() {
        let nulls =
            json!({"num_key_value_heads": null, "sliding_window": null, "head_dim": null, "num_attention_heads": 16});
        let config = parsed(&with(smallest("mistral"), nulls)).unwrap();
        assert_eq!((config.num_key_value_heads, config.sliding_window, config.head_dim), (16, None, 2));
    }

    #[test]
    fn both_dialects_say_the_same() {
        let four = json!({"rope_theta": 500000.0, "torch_dtype": "bfloat16", "rope_scaling": {"rope_type": "llama3",
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}});
        let five = json!({"dtype": "bfloat16", "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0,
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}});
        let four = parsed(&with(smallest("llama"), four)).unwrap();
        assert_eq!(four, parsed(&with(smallest("llama"), five)).unwrap());
        assert_eq!((four.rope_theta, four.rope_scaling), (5e5, llama3()));
        let four = parsed(&with(smallest("llama"), json!({"rope_scaling": {"type": "linear", "factor": 2}}))).unwrap();
        let five = json!({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000}});
        assert_eq!(four, parsed(&with(smallest("llama"), five)).unwrap());
        assert_eq!(four.rope_scaling, RopeScaling::Linear { factor: 2.0 });
    }

    #[test]
    fn what_is_written_reads_back_in_either_dialect() {
        let scalings = [
            RopeScaling::Default,
            RopeScaling::Linear { factor: 4.0 },
            RopeScaling::Dynamic { factor: 2.0 },
            llama3(),
            yarn(16.0, 1.25),
        ];
        let presets = [DecoderConfig::smollm2_135m(), DecoderConfig::mistral_7b(), DecoderConfig::mixtral_8x7b()];
        for (config, scaling) in presets.iter().flat_map(|config| scalings.map(|scaling| (config, scaling))) {
            let config = config.with(|fields| fields.rope_scaling = scaling).unwrap();
            let both = to_json(&config, Dtype::Bfloat16, Map::new());
            for dialect in [&["rope_parameters", "dtype"][..], &["rope_theta", "rope_scaling", "torch_dtype"], &[]] {
                let mut keys = both.clone();
                dialect.iter().for_each(|key| assert!(keys.shift_remove(*key).is_some()));
                assert_eq!(parsed(&Value::Object(keys)).unwrap(), config);
            }
        }
    }

    #[test]
    fn keys_of_the_parent_are_kept_unless_they_describe_only_the_parent() {
        let carried =
            json!({"bos_token_id": 1, "auto_map": {"AutoModel": "remote.py"}, "sliding_window": 8, "dtype": "x"});
        let carried = carried.as_object().unwrap().clone();
        let keys = to_json(&DecoderConfig::pico(), Dtype::Float16, carried);
        assert_eq!(keys["bos_token_id"], 1);
        assert_eq!(keys["dtype"], "float16");
        assert!(!keys.contains_key("auto_map") && !keys.contains_key("sliding_window"));
    }

    #[test]
    fn leftovers_that_transformers_ignores_are_remarked() {
        for (found, leftover) in [
            (json!({"sliding_window": 4096, "use_sliding_window": false}), "sliding_window"),
            (json!({"architectures": ["LLaMAForCausalLM"]}), "architectures"),
            (json!({"architectures": ["LlamaModel"]}), "architectures"),
            (json!({"architectures": []}), "architectures"),
        ] {
            let parsed = parse(with(smallest("llama"), found).to_string().as_bytes()).unwrap();
            assert!(matches!(&parsed.remarks[..], [Remark::ReadAs { key, .. }] if *key == leftover), "{leftover}");
            assert_eq!(parsed.config, super::tests::parsed(&smallest("llama")).unwrap());
        }
        assert!(parsed(&with(smallest("llama"), json!({"architectures": ["MistralForCausalLM"]}))).is_err());
        let swish = parsed(&with(smallest("llama"), json!({"hidden_act": "swish"}))).unwrap();
        assert_eq!(swish.computable(), Ok(()));
        // A Mistral has the window, whatever the other key.
        let window = json!({"sliding_window": 8, "use_sliding_window": false});
        assert_eq!(parsed(&with(smallest("mistral"), window)).unwrap().sliding_window, Some(8));
    }

    #[test]
    fn settings_that_are_not_computed_are_written_back_unchanged() {
        let yarn = json!({"type": "foo", "factor": 16.0, "original_max_position_embeddings": 16, "finetuned": true});
        let five = with(yarn.clone(), json!({"rope_theta": 5e5}));
        for (found, expected) in [
            (json!({"hidden_act": "gelu"}), json!({"hidden_act": "gelu"})),
            (json!({"partial_rotary_factor": 0.5}), json!({"partial_rotary_factor": 0.5})),
            (json!({"rope_theta": 5e5, "rope_scaling": yarn}), json!({"rope_scaling": yarn, "rope_parameters": five})),
            (
                json!({"rope_parameters": five}),
                json!({"rope_scaling": yarn, "rope_parameters": five, "rope_theta": 5e5}),
            ),
        ] {
            let text = with(smallest("llama"), found).to_string();
            let Parsed { config, keys, remarks } = parse(text.as_bytes()).unwrap();
            assert!(config.computable().is_err() && matches!(remarks[0], Remark::Unmodelled { .. }), "{text}");
            let written = to_json(&config.with(|f| f.num_hidden_layers = 3).unwrap(), Dtype::Float32, keys);
            for (key, value) in expected.as_object().unwrap() {
                assert_eq!(&written[key], value, "{key} of {text}");
            }
            let read = parsed(&Value::Object(written)).unwrap();
            assert_eq!(read, config.with(|f| f.num_hidden_layers = 3).unwrap());
        }
        let two =
            json!({"rope_scaling": {"type": "foo", "factor": 2}, "rope_parameters": {"rope_type": "foo", "factor": 4}});
        let error = parsed(&with(smallest("llama"), two)).unwrap_err();
        assert!(matches!(error, ConfigFault::KeysDisagree { .. }), "{error}");
    }

    #[test]
    fn zero_heads_are_a_broken_rule_and_not_a_division_by_zero() {
        let error = parsed(&with(smallest("llama"), json!({"num_attention_heads": 0}))).unwrap_err();
        assert!(error.to_string().contains("num_attention_heads is 0"), "{error}");
    }

    #[test]
    fn layer_types_say_what_the_sliding_window_says() {
        let with_types = |model_type, window: Value, types: Value| {
            parsed(&with(smallest(model_type), json!({"sliding_window": window, "layer_types": types})))
        };
        let (full, sliding) = ("full_attention", "sliding_attention");
        assert!(with_types("mistral", Value::Null, json!([full, full])).is_ok());
        assert!(with_types("mistral", json!(8), json!([sliding, sliding])).is_ok());
        let error = with_types("mistral", json!(8), json!([sliding, full])).unwrap_err();
        assert!(matches!(error, ConfigFault::Unsupported { key: "layer_types", .. }), "{error}");
        let error = with_types("llama", Value::Null, json!([full, full, full])).unwrap_err();
        assert!(matches!(error, ConfigFault::ListLength { found: 3, expected: 2, .. }), "{error}");
        let carried = json!({"layer_types": [full, full]}).as_object().unwrap().clone();
        assert!(!to_json(&DecoderConfig::pico(), Dtype::Float32, carried).contains_key("layer_types"));
    }

    #[test]
    fn non_finite_numbers_are_dropped_from_keys_that_are_not_read_and_refused_in_others() {
        let text = |key: &str| smallest("llama").to_string().replacen('{', &format!("{{\"{key}\": [1, Infinity],"), 1);
        let parsed = parse(text("time_step_limit").as_bytes()).unwrap();
        assert!(!parsed.keys.contains_key("time_step_limit") && parsed.keys.contains_key("vocab_size"));
        assert!(matches!(&parsed.remarks[..], [Remark::NonFiniteKey { key }] if key == "time_step_limit"));
        for key in ["rope_theta", "hidden_act", "rope_scaling", "quantization_config", "layer_types"] {
            assert!(parse(text(key).as_bytes()).is_err(), "{key}");
        }
    }

    /// Values change to others, keys double or vanish, bytes are damaged.
    fn mutated(rng: &mut ChaCha8Rng, samples: &[String]) -> Vec<u8> {
        const VALUES: [&str; 16] = [
            "0",
            "-1",
            "1",
            "2",
            "1.5",
            "1e400",
            "NaN",
            "Infinity",
            "18446744073709551615",
            "9e18",
            "null",
            "true",
            "\"x\"",
            "[]",
            "{}",
            "[[1],{\"a\":null}]",
        ];
        let mut text = samples[rng.random_range(0..samples.len())].clone().into_bytes();
        for _ in 0..rng.random_range(1..4) {
            let colons: Vec<usize> = (0..text.len()).filter(|&i| text[i] == b':').collect();
            let at = rng.random_range(0..text.len());
            match rng.random_range(0..4) {
                0 => text[at] = rng.random_range(0..=255),
                1 if !colons.is_empty() => {
                    let start = colons[rng.random_range(0..colons.len())] + 1;
                    let end = (start..text.len()).find(|&i| b",}".contains(&text[i])).unwrap_or(text.len());
                    text.splice(start..end, VALUES[rng.random_range(0..VALUES.len())].bytes());
                }
                2 => {
                    let end = rng.random_range(at..text.len().min(at + 30));
                    let piece = text[at..end].to_vec();
                    let to = rng.random_range(0..text.len());
                    text.splice(to..to, piece);
                }
                _ => drop(text.drain(at..rng.random_range(at..text.len().min(at + 30)))),
            }
        }
        text
    }

    #[test]
    fn an_accepted_config_is_sound_and_has_the_sizes_that_json_says() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let presets = [DecoderConfig::pico(), DecoderConfig::mistral_7b(), DecoderConfig::mixtral_8x7b()];
        let both = presets.map(|config| Value::Object(to_json(&config, Dtype::Float16, Map::new())).to_string());
        let samples = [&both[..], &[smallest("llama").to_string(), smallest("mixtral").to_string()]].concat();
        let (mut accepted, mut refused) = (0, 0);
        for _ in 0..100_000 {
            let text = mutated(&mut rng, &samples);
            let Ok(Parsed { config, keys, .. }) = parse(&text) else {
                refused += 1;
                continue;
            };
            accepted += 1;
            assert_eq!(config.with(|_| ()).as_ref(), Ok(&config));
            for (key, size) in [
                ("vocab_size", config.vocab_size),
                ("hidden_size", config.hidden_size),
                ("intermediate_size", config.intermediate_size),
                ("num_hidden_layers", config.num_hidden_layers),
                ("num_attention_heads", config.num_attention_heads),
            ] {
                assert_eq!(keys[key], size, "{key} of {}", text.escape_ascii());
            }
            if let Ok(Value::Object(value)) = serde_json::from_slice(&text) {
                assert_eq!(keys, value, "{}", text.escape_ascii());
            }
        }
        assert!(accepted > 5_000 && refused > 10_000, "{accepted} {refused}");
    }
}
