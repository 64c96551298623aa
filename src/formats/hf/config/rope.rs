//! Rotary settings in both dialects: `rope_theta` and `rope_scaling` of transformers 4, `rope_parameters` of
//! transformers 5.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::fault::ConfigFault;
use crate::config::RopeScaling;

/// `rope_scaling` or `rope_parameters`.
#[derive(Debug, Deserialize)]
pub(super) struct RopeFields {
    rope_type: Option<String>,
    #[serde(rename = "type")]
    legacy_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// `rope_theta` (with its default) and the scaling that the keys of both dialects agree on. A scaling that is not
/// modelled goes into `unmodelled`, in both dialects.
pub(super) fn agreed_rope(
    (rope_theta, default_theta): (Option<f64>, f64),
    rope_scaling: Option<&RopeFields>,
    rope_parameters: Option<&RopeFields>,
    unmodelled: &mut Map<String, Value>,
) -> Result<(f64, RopeScaling), ConfigFault> {
    let thetas = [
        ("rope_theta", rope_theta),
        ("rope_parameters.rope_theta", rope_parameters.and_then(|fields| fields.rope_theta)),
        ("rope_scaling.rope_theta", rope_scaling.and_then(|fields| fields.rope_theta)),
    ];
    let theta = agreed(thetas)?.unwrap_or(default_theta);
    let [four, five] = [("rope_scaling", rope_scaling), ("rope_parameters", rope_parameters)];
    let scaling = |(key, fields): (&'static str, Option<&RopeFields>)| {
        fields.map(|fields| fields.scaling(key)).transpose().map(|scaling| (key, scaling))
    };
    match agreed([scaling(five)?, scaling(four)?])? {
        None => Ok((theta, RopeScaling::Default)),
        Some(Scaling::Modelled(scaling)) => Ok((theta, scaling)),
        Some(Scaling::Other(keys)) => {
            let mut parameters = keys.clone();
            parameters.insert("rope_theta".to_owned(), json!(theta));
            unmodelled.insert("rope_scaling".to_owned(), Value::Object(keys));
            unmodelled.insert("rope_parameters".to_owned(), Value::Object(parameters));
            Ok((theta, RopeScaling::Default))
        }
    }
}

/// The value that all present keys share.
fn agreed<T: Clone + PartialEq + serde::Serialize, const N: usize>(
    keys: [(&'static str, Option<T>); N],
) -> Result<Option<T>, ConfigFault> {
    let present: Vec<(&'static str, T)> = keys.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    match present.windows(2).find(|pair| pair[0].1 != pair[1].1) {
        Some(pair) => Err(ConfigFault::KeysDisagree {
            first: pair[0].0,
            first_found: json!(pair[0].1).to_string(),
            second: pair[1].0,
            second_found: json!(pair[1].1).to_string(),
        }),
        None => Ok(present.first().map(|(_, value)| value.clone())),
    }
}

/// A scaling of either dialect.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(untagged)]
enum Scaling {
    Modelled(RopeScaling),
    /// The keys as in the file, without `rope_theta`.
    Other(Map<String, Value>),
}

impl RopeFields {
    fn scaling(&self, key: &'static str) -> Result<Scaling, ConfigFault> {
        let factor = || needed(self.factor, "factor", key);
        let rope_type = self.rope_type.as_ref().or(self.legacy_type.as_ref());
        let scaling = match rope_type.map(String::as_str) {
            None if self.factor.is_some() => return Err(ConfigFault::MissingKey { key: "rope_type", beside: key }),
            None | Some("default") => RopeScaling::Default,
            Some("linear") => RopeScaling::Linear { factor: factor()? },
            Some("llama3") => RopeScaling::Llama3 {
                factor: factor()?,
                low_freq_factor: needed(self.low_freq_factor, "low_freq_factor", key)?,
                high_freq_factor: needed(self.high_freq_factor, "high_freq_factor", key)?,
                original_max_position_embeddings: needed(
                    self.original_max_position_embeddings,
                    "original_max_position_embeddings",
                    key,
                )?,
            },
            Some(_) => return Ok(self.other()),
        };
        let neutral = |name: &str, value: &Value| {
            value.is_null() || (name == "partial_rotary_factor" && value.as_f64() == Some(1.0))
        };
        match self.others.iter().find(|(name, value)| !neutral(name, value)) {
            None => Ok(Scaling::Modelled(scaling)),
            // Settings for each kind of layer.
            Some((name, value @ Value::Object(_))) => {
                let expected = "rope_type, rope_theta and the keys of the type";
                Err(ConfigFault::unsupported(key, json!({name: value}), expected))
            }
            Some(_) => Ok(self.other()),
        }
    }

    fn other(&self) -> Scaling {
        let mut keys = Map::new();
        let mut set = |key: &str, value: Value| (!value.is_null()).then(|| keys.insert(key.to_owned(), value));
        set("rope_type", json!(self.rope_type));
        set("type", json!(self.legacy_type));
        set("factor", json!(self.factor));
        set("low_freq_factor", json!(self.low_freq_factor));
        set("high_freq_factor", json!(self.high_freq_factor));
        set("original_max_position_embeddings", json!(self.original_max_position_embeddings));
        keys.extend(self.others.clone());
        Scaling::Other(keys)
    }
}

fn needed<T>(value: Option<T>, key: &'static str, beside: &'static str) -> Result<T, ConfigFault> {
    value.ok_or(ConfigFault::MissingKey { key, beside })
}
