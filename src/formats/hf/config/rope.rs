//! Rotary settings in both dialects: transformers 4's `rope_theta` and `rope_scaling`, transformers 5's
//! `rope_parameters`.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::unsupported;
use crate::config::RopeScaling;
use crate::weights::WeightError;

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

/// `rope_theta` (or the default) and the scaling that the keys of either dialect agree on.
pub(super) fn agreed_rope(
    path: &Path,
    rope_theta: Option<f64>,
    rope_scaling: Option<&RopeFields>,
    rope_parameters: Option<&RopeFields>,
    default_theta: f64,
) -> Result<(f64, RopeScaling), WeightError> {
    let thetas = [
        ("rope_theta", rope_theta),
        ("rope_parameters.rope_theta", rope_parameters.and_then(|fields| fields.rope_theta)),
        ("rope_scaling.rope_theta", rope_scaling.and_then(|fields| fields.rope_theta)),
    ];
    let scalings = [("rope_parameters", rope_parameters), ("rope_scaling", rope_scaling)];
    let checked = |(key, fields): (&'static str, Option<&RopeFields>)| {
        fields.map(|fields| fields.scaling(path, key)).transpose().map(|scaling| (key, scaling))
    };
    let [first, second] = scalings.map(checked);
    let theta = agreed(path, thetas)?.unwrap_or(default_theta);
    Ok((theta, agreed(path, [first?, second?])?.unwrap_or(RopeScaling::Default)))
}

/// The one value that all present keys have.
fn agreed<T: Copy + PartialEq + std::fmt::Debug, const N: usize>(
    path: &Path,
    keys: [(&'static str, Option<T>); N],
) -> Result<Option<T>, WeightError> {
    let present: Vec<(&'static str, T)> = keys.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    match present.windows(2).find(|pair| pair[0].1 != pair[1].1) {
        Some(pair) => Err(WeightError::KeysDisagree {
            path: path.to_owned(),
            first: pair[0].0,
            first_found: format!("{:?}", pair[0].1),
            second: pair[1].0,
            second_found: format!("{:?}", pair[1].1),
        }),
        None => Ok(present.first().map(|(_, value)| *value)),
    }
}

impl RopeFields {
    fn scaling(&self, path: &Path, key: &'static str) -> Result<RopeScaling, WeightError> {
        let factor = || needed(path, self.factor, "factor", key);
        let rope_type = self.rope_type.as_ref().or(self.legacy_type.as_ref());
        let scaling = match rope_type.map(String::as_str) {
            None if self.factor.is_some() => return Err(missing(path, "rope_type", key)),
            None | Some("default") => RopeScaling::Default,
            Some("linear") => RopeScaling::Linear { factor: factor()? },
            Some("llama3") => RopeScaling::Llama3 {
                factor: factor()?,
                low_freq_factor: needed(path, self.low_freq_factor, "low_freq_factor", key)?,
                high_freq_factor: needed(path, self.high_freq_factor, "high_freq_factor", key)?,
                original_max_position_embeddings: needed(
                    path,
                    self.original_max_position_embeddings,
                    "original_max_position_embeddings",
                    key,
                )?,
            },
            Some(other) => return Err(unsupported(path, "rope_type", other, "\"default\", \"linear\" or \"llama3\"")),
        };
        let neutral = |name: &str, value: &Value| {
            value.is_null() || (name == "partial_rotary_factor" && value.as_f64() == Some(1.0))
        };
        match self.others.iter().find(|(name, value)| !neutral(name, value)) {
            Some((name, value)) => {
                Err(unsupported(path, key, json!({name: value}), "rope_type, rope_theta and what the type needs"))
            }
            None => Ok(scaling),
        }
    }
}

fn needed<T>(path: &Path, value: Option<T>, key: &'static str, beside: &'static str) -> Result<T, WeightError> {
    value.ok_or_else(|| missing(path, key, beside))
}

fn missing(path: &Path, key: &'static str, beside: &'static str) -> WeightError {
    WeightError::MissingKey { path: path.to_owned(), key, beside }
}
