//! Reads and writes `adapter_config.json`.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::fault::PeftFault;
use super::stacked::{Stacks, pattern};
use crate::formats::Remark;
use crate::formats::json::Pairs;
use crate::lora::{LoraAdapter, LoraConfig, Modules, module_name};

/// The content of an `adapter_config.json`.
pub(super) struct Parsed {
    /// With `target_parameters` as the linear maps that they hold.
    pub config: LoraConfig,
    pub stacks: Stacks,
    /// `base_model_name_or_path`.
    pub base: Option<String>,
    pub remarks: Vec<Remark>,
}

/// Keys that change nothing in a trained adapter.
const WITHOUT_EFFECT: [&str; 15] = [
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "lora_ga_config",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
];

/// Variants of LoRA that compute something else, or train other parameters; each is off if absent, null, false or empty.
const VARIANTS: [&str; 15] = [
    "alora_invocation_tokens",
    "arrow_config",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "megatron_config",
    "modules_to_save",
    "monteclora_config",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "velora_config",
    "use_mora",
];

/// Initializations that change the base weights too, so that the adapter belongs to a base that is not there.
const CHANGES_BASE: &str =
    "true, false, \"gaussian\", \"eva\" or \"orthogonal\": others change the weights of the base";

/// Parses the text of an `adapter_config.json`.
pub(super) fn parse(text: &[u8]) -> Result<Parsed, PeftFault> {
    let pairs: Pairs<Value> = serde_json::from_slice(text)?;
    if let Some(key) = pairs.duplicate() {
        return Err(PeftFault::RepeatedKey { key: key.to_owned() });
    }
    let mut keys: Map<String, Value> = pairs.0.into_iter().collect();
    let base = take(&mut keys, "base_model_name_or_path", "a name")?;
    let peft_type = keys.shift_remove("peft_type").unwrap_or_default();
    if peft_type != "LORA" {
        return Err(PeftFault::Unsupported { key: "peft_type", found: peft_type, expected: "\"LORA\"" });
    }
    for key in VARIANTS {
        if let Some(found) = keys.shift_remove(key).filter(|value| !is_off(value)) {
            return Err(PeftFault::Unsupported { key, found, expected: "null or false: a plain LoRA" });
        }
    }
    let parameters = keys.shift_remove("target_parameters").filter(|value| !is_off(value));
    let parameters = parameters.map(|names| parsed::<Vec<String>>("target_parameters", names, "a list of names"));
    let stacks = Stacks::parse(&parameters.transpose()?.unwrap_or_default())?;
    let bias = keys.shift_remove("bias").unwrap_or(json!("none"));
    if bias != "none" {
        return Err(PeftFault::Unsupported { key: "bias", found: bias, expected: "\"none\"" });
    }
    let init = keys.shift_remove("init_lora_weights").unwrap_or_default();
    if !matches!(&init, Value::Null | Value::Bool(_))
        && !["gaussian", "eva", "orthogonal"].iter().any(|name| init == *name)
    {
        return Err(PeftFault::Unsupported { key: "init_lora_weights", found: init, expected: CHANGES_BASE });
    }
    let mut config = lora_config(&mut keys, stacks)?;
    unstack(&mut config, stacks)?;
    keys.retain(|key, value| !WITHOUT_EFFECT.contains(&key.as_str()) && !is_off(value));
    let remarks = keys.into_iter().map(|(key, _)| Remark::UnknownKey { key }).collect();
    Ok(Parsed { config, stacks, base, remarks })
}

fn lora_config(keys: &mut Map<String, Value>, stacks: Stacks) -> Result<LoraConfig, PeftFault> {
    let defaults = LoraConfig::default();
    let layers: Option<Value> = take(keys, "layers_to_transform", "")?;
    let layers_to_transform = match layers {
        Some(Value::Array(list)) if list.is_empty() => None,
        Some(layers) if layers.is_u64() => Some(vec![parsed("layers_to_transform", layers, "layers")?]),
        Some(layers) => Some(parsed("layers_to_transform", layers, "an index, or a list of indices")?),
        None => None,
    };
    let pattern: Value = take(keys, "layers_pattern", "")?.unwrap_or_default();
    if !(is_off(&pattern) || pattern == "layers" || pattern == json!(["layers"])) {
        return Err(PeftFault::Unsupported { key: "layers_pattern", found: pattern, expected: "null or \"layers\"" });
    }
    let number_patterns = "an object of numbers";
    let none = (!stacks.is_empty()).then(|| Modules::Named(Vec::new()));
    let target_modules = modules(keys, "target_modules")?.or(none).ok_or(PeftFault::Unsupported {
        key: "target_modules",
        found: Value::Null,
        expected: "a list of names or a pattern",
    })?;
    Ok(LoraConfig {
        r: take(keys, "r", "a number of at least 1")?.unwrap_or(defaults.r),
        lora_alpha: take(keys, "lora_alpha", "a number")?.unwrap_or(defaults.lora_alpha),
        use_rslora: take(keys, "use_rslora", "true or false")?.unwrap_or(false),
        lora_dropout: take(keys, "lora_dropout", "a number")?.unwrap_or(0.0),
        target_modules,
        exclude_modules: modules(keys, "exclude_modules")?,
        layers_to_transform,
        rank_pattern: in_order(take(keys, "rank_pattern", number_patterns)?),
        alpha_pattern: in_order(take(keys, "alpha_pattern", number_patterns)?),
    })
}

/// Names the linear maps of stacked parameters instead of these.
fn unstack(config: &mut LoraConfig, stacks: Stacks) -> Result<(), PeftFault> {
    if stacks.is_empty() {
        return Ok(());
    }
    let Modules::Named(names) = &mut config.target_modules else {
        let (found, expected) = (json!(config.target_modules.to_string()), "a list of names beside target_parameters");
        return Err(PeftFault::Unsupported { key: "target_modules", found, expected });
    };
    if let Some(layers) = &config.layers_to_transform {
        let (found, expected) = (json!(layers), "null beside target_parameters, which are of all layers");
        return Err(PeftFault::Unsupported { key: "layers_to_transform", found, expected });
    }
    names.extend(stacks.modules().map(str::to_owned));
    for (text, _) in &mut config.rank_pattern {
        *text = pattern("rank_pattern", text)?;
    }
    for (text, _) in &mut config.alpha_pattern {
        *text = pattern("alpha_pattern", text)?;
    }
    Ok(())
}

/// The pairs of an object in the order of the text.
fn in_order<V>(pairs: Option<Pairs<V>>) -> Vec<(String, V)> {
    pairs.map_or_else(Vec::new, |pairs| pairs.0)
}

fn modules(keys: &mut Map<String, Value>, key: &'static str) -> Result<Option<Modules>, PeftFault> {
    Ok(match keys.shift_remove(key).filter(|value| !is_off(value)) {
        None => None,
        Some(Value::String(pattern)) => Some(Modules::matching(key, &pattern)?),
        Some(names) => Some(Modules::Named(parsed(key, names, "a list of names or a pattern")?)),
    })
}

/// Removes a key and reads its value; `None` if it is absent or null.
fn take<T: DeserializeOwned>(
    keys: &mut Map<String, Value>,
    key: &'static str,
    expected: &'static str,
) -> Result<Option<T>, PeftFault> {
    keys.shift_remove(key).filter(|value| !value.is_null()).map(|value| parsed(key, value, expected)).transpose()
}

fn parsed<T: DeserializeOwned>(key: &'static str, found: Value, expected: &'static str) -> Result<T, PeftFault> {
    serde_json::from_value(found.clone()).map_err(|_| PeftFault::Unsupported { key, found, expected })
}

/// Whether a setting is off: null, false or empty.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(keys) => keys.is_empty(),
        _ => false,
    }
}

/// The `adapter_config.json` of an adapter of `base`. All linear maps are listed by name, which every reader knows.
pub(super) fn to_json(adapter: &LoraAdapter, base: Option<&str>) -> Value {
    let config = adapter.config();
    let patterns = |modules: &Modules| match modules {
        Modules::AllLinear => json!(adapted_kinds(adapter)),
        Modules::Named(names) => json!(names),
        Modules::Matching(pattern) => json!(pattern.as_str()),
    };
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": true,
        "r": config.r,
        "lora_alpha": number(config.lora_alpha),
        "lora_dropout": config.lora_dropout,
        "use_rslora": config.use_rslora,
        "target_modules": patterns(&config.target_modules),
        "exclude_modules": config.exclude_modules.as_ref().map(patterns),
        "layers_to_transform": config.layers_to_transform,
        "layers_pattern": null,
        "rank_pattern": config.rank_pattern.iter().map(|(text, rank)| (text.clone(), json!(rank))).collect::<Map<_, _>>(),
        "alpha_pattern":
            config.alpha_pattern.iter().map(|(text, alpha)| (text.clone(), number(*alpha))).collect::<Map<_, _>>(),
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "modules_to_save": null,
        "use_dora": false,
    })
}

/// The last part of the name of each adapted module, once.
fn adapted_kinds(adapter: &LoraAdapter) -> Vec<String> {
    let mut kinds = Vec::new();
    for (id, _) in adapter.updates() {
        let name = module_name(id).expect("an adapted module is a linear map");
        let kind = name.rsplit('.').next().unwrap_or_default().to_owned();
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds
}

/// A whole number without a fraction, as PEFT's `lora_alpha`.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}
