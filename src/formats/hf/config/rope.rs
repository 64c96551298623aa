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
    attention_factor: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    truncate: Option<bool>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// The rotary settings of a `config.json`, as far as they are present.
pub(super) struct RopeKeys<'a> {
    pub rope_theta: Option<f64>,
    pub rope_scaling: Option<&'a RopeFields>,
    pub rope_parameters: Option<&'a RopeFields>,
    /// All keys of the file.
    pub keys: &'a Map<String, Value>,
    pub max_position_embeddings: usize,
}

/// A scaling of either dialect.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(untagged)]
pub(super) enum Scaling {
    Modelled(RopeScaling),
    /// The keys as in the file, without `rope_theta`.
    Other(Map<String, Value>),
}

impl RopeKeys<'_> {
    /// `rope_theta` and the scaling that the keys of both dialects agree on, as far as they are present.
    pub fn agreed(&self) -> Result<(Option<f64>, Option<Scaling>), ConfigFault> {
        let theta = agreed([
            ("rope_theta", self.rope_theta),
            ("rope_parameters.rope_theta", self.rope_parameters.and_then(|fields| fields.rope_theta)),
            ("rope_scaling.rope_theta", self.rope_scaling.and_then(|fields| fields.rope_theta)),
        ])?;
        let dialects = [("rope_parameters", self.rope_parameters), ("rope_scaling", self.rope_scaling)];
        let [five, four] = dialects.map(|(key, fields)| {
            let scaling = fields.map(|fields| self.scaling(key, fields)).transpose();
            scaling.map(|scaling| (key, scaling))
        });
        Ok((theta, agreed([five?, four?])?))
    }

    fn scaling(&self, key: &'static str, fields: &RopeFields) -> Result<Scaling, ConfigFault> {
        let neutral = |name: &str, value: &Value| match name {
            "partial_rotary_factor" => value.is_null() || value.as_f64() == Some(1.0),
            // A note on how the model was made.
            "finetuned" => true,
            _ => value.is_null(),
        };
        match fields.others.iter().find(|(name, value)| !neutral(name, value)) {
            // Settings for each kind of layer.
            Some((name, value @ Value::Object(_))) => {
                let expected = "rope_type, rope_theta and the keys of the type";
                return Err(ConfigFault::unsupported(key, json!({name: value}), expected));
            }
            Some(_) => return Ok(self.other(key)),
            None => {}
        }
        let needed = |value: Option<f64>, name| value.ok_or(ConfigFault::MissingKey { key: name, beside: key });
        let original = fields.original_max_position_embeddings.unwrap_or(self.max_position_embeddings);
        let rope_type = fields.rope_type.as_ref().or(fields.legacy_type.as_ref());
        Ok(Scaling::Modelled(match rope_type.map(String::as_str) {
            None if fields.factor.is_some() => {
                return Err(ConfigFault::MissingKey { key: "rope_type", beside: key });
            }
            None | Some("default") => RopeScaling::Default,
            Some("linear") => RopeScaling::Linear { factor: needed(fields.factor, "factor")? },
            Some("dynamic") => RopeScaling::Dynamic { factor: needed(fields.factor, "factor")? },
            Some("llama3") => RopeScaling::Llama3 {
                factor: needed(fields.factor, "factor")?,
                low_freq_factor: needed(fields.low_freq_factor, "low_freq_factor")?,
                high_freq_factor: needed(fields.high_freq_factor, "high_freq_factor")?,
                original_max_position_embeddings: original,
            },
            Some("yarn") => {
                let factor = fields.factor.unwrap_or(self.max_position_embeddings as f64 / original as f64);
                RopeScaling::Yarn {
                    factor,
                    original_max_position_embeddings: original,
                    beta_fast: fields.beta_fast.filter(|beta| *beta != 0.0).unwrap_or(32.0),
                    beta_slow: fields.beta_slow.filter(|beta| *beta != 0.0).unwrap_or(1.0),
                    attention_factor: fields.attention_factor.unwrap_or_else(|| fields.yarn_attention_factor(factor)),
                    truncate: fields.truncate.unwrap_or(true),
                }
            }
            Some(_) => return Ok(self.other(key)),
        }))
    }

    fn other(&self, key: &str) -> Scaling {
        let mut keys = self.keys.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
        keys.shift_remove("rope_theta");
        Scaling::Other(keys)
    }
}

impl RopeFields {
    /// YaRN's factor of queries and keys (Peng et al., 2023, arXiv:2309.00071, §3.4), with the variant of DeepSeek.
    fn yarn_attention_factor(&self, factor: f64) -> f64 {
        let scale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
        let given = |value: Option<f64>| value.filter(|value| *value != 0.0);
        match (given(self.mscale), given(self.mscale_all_dim)) {
            (Some(m), Some(all)) => scale(m) / scale(all),
            _ => scale(1.0),
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
