//! The settings of a run, as its checkpoints record them.

use std::collections::BTreeMap;

use burn::tensor::Device;
use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::passes::PassSize;
use crate::config::DecoderConfig;
use crate::data::Mixture;
use crate::load::Precision;
use crate::lora::{LoraConfig, LoraError, Modules, linear_names};
use crate::train::{AdamWConfig, Dpo, ParamGroups, RouterLoss, Schedule, Targets};
use crate::weights::split_mix;

/// Everything that the weights of a run depend on besides its base and its data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Seed of the order of the data.
    pub seed: u64,
    /// Tokens of a row, at most.
    pub max_length: usize,
    /// Rows per update.
    pub batch_size: usize,
    /// Rows per forward and backward pass, if they are not short; see [`PassSize`].
    pub micro_batch_size: usize,
    /// Whether products read matrices rounded to bfloat16; see [`Precision::Mixed`].
    pub bf16: bool,
    /// The optimizer.
    pub adamw: AdamWConfig,
    /// The learning rate.
    pub schedule: Schedule,
    /// Largest global norm of the gradient.
    pub max_grad_norm: f64,
    /// The terms of routers.
    pub router: RouterLoss,
    /// Rate of the bias by which experts are balanced without a loss; 0 has none. See [`RouterBias`](crate::train::RouterBias).
    pub router_bias_update_rate: f64,
    /// Groups of parameters: a pattern of names, and the multiplier of their learning rate.
    pub groups: Vec<(String, f64)>,
    /// The preference loss; `None` in language modeling.
    pub dpo: Option<Dpo>,
    /// The adapter that is trained in place of the weights, if one is.
    pub lora: Option<LoraSettings>,
    /// Hash of the weights of the base, and the growths before training.
    pub base: String,
    /// The sources of the data.
    pub data: Vec<DataSettings>,
    /// Hash of the rows that are evaluated, if they are not held out of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_data: Option<String>,
}

/// Rows to train on from one source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataSettings {
    /// Number of rows, without those held out.
    pub num_rows: u64,
    /// Visits of each row in an epoch; see [`Mixture`].
    pub weight: f64,
    /// Hash of the rows: of tokens, packing and split.
    pub hash: String,
}

/// The adapter of a run, with PEFT's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoraSettings {
    /// Rank of the updates.
    pub r: usize,
    /// The scale of an update is `lora_alpha / r`.
    pub lora_alpha: f64,
    /// Whether the scale is `lora_alpha / √r` instead.
    pub use_rslora: bool,
    /// Probability with which an element of the input of an update is dropped; without effect on evaluations.
    #[serde(default)]
    pub lora_dropout: f64,
    /// Ends of the names of the matrices to adapt, or `all-linear` alone.
    pub target_modules: Vec<String>,
}

/// The name of all linear maps of the layers.
const ALL_LINEAR: &str = "all-linear";

impl LoraSettings {
    /// With the names of all linear maps of the layers in place of `all-linear` beside other names, which PEFT has no value for.
    #[must_use]
    pub fn expanded(mut self, decoder: &DecoderConfig) -> Self {
        let is_all = |name: &String| name == ALL_LINEAR;
        if self.target_modules.len() > 1 && self.target_modules.iter().any(is_all) {
            let others: Vec<String> = self.target_modules.into_iter().filter(|name| !is_all(name)).collect();
            let all = linear_names(decoder).into_iter().filter(|name| *name != "lm_head").map(str::to_owned);
            self.target_modules = all.filter(|name| !others.contains(name)).chain(others.iter().cloned()).collect();
        }
        self
    }

    /// Checks that each target is a linear map of a decoder.
    ///
    /// # Errors
    /// [`LoraError::NoTarget`] with the name that is not.
    pub fn check_names(&self, decoder: &DecoderConfig) -> Result<(), LoraError> {
        self.config().check_names(decoder)
    }

    /// The configuration of the adapter.
    pub fn config(&self) -> LoraConfig {
        let target_modules = match &self.target_modules[..] {
            [all] if all == ALL_LINEAR => Modules::AllLinear,
            names => Modules::Named(names.to_vec()),
        };
        let Self { r, lora_alpha, use_rslora, lora_dropout, .. } = *self;
        LoraConfig { r, lora_alpha, use_rslora, lora_dropout, target_modules, ..LoraConfig::default() }
    }
}

/// A setting that differs between a checkpoint and the run that is to continue it.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Its name.
    pub name: String,
    /// Its value in the checkpoint.
    pub saved: Value,
    /// Its value now.
    pub now: Value,
}

impl Settings {
    /// The groups of parameters.
    ///
    /// # Errors
    /// The first pattern that is not a valid regular expression.
    pub fn param_groups(&self) -> Result<ParamGroups, regex::Error> {
        let mut groups = ParamGroups::default();
        for (pattern, multiplier) in &self.groups {
            groups.push(Regex::new(pattern)?, *multiplier);
        }
        Ok(groups)
    }

    /// The number formats in which the model is loaded: under an adapter, a quantized base stays in its blocks.
    pub fn precision(&self) -> Precision {
        match (self.bf16, &self.lora) {
            (true, _) => Precision::Mixed,
            (false, Some(_)) => Precision::Blocks(None),
            (false, None) => Precision::FLOAT32,
        }
    }

    /// Sequences of a row: both completions of a pair.
    pub fn sequences_of_row(&self) -> usize {
        if self.dpo.is_some() { 2 } else { 1 }
    }

    /// How updates are cut into passes on this device.
    pub fn pass_size(&self, device: &Device) -> PassSize {
        PassSize {
            micro_batch_size: self.micro_batch_size,
            max_length: self.sequences_of_row() * self.max_length,
            is_padded: Targets::are_padded(device),
        }
    }

    /// The order in which training visits the rows of all sources.
    ///
    /// # Panics
    /// If there is no row.
    pub fn order(&self) -> Mixture {
        Mixture::new(self.data.iter().map(|source| (source.num_rows, source.weight)), self.seed)
    }

    /// Passes over the data after `step` updates.
    ///
    /// # Panics
    /// If there is no row.
    pub fn epoch(&self, step: usize) -> f64 {
        (step * self.batch_size) as f64 / self.order().num_visits() as f64
    }

    /// A random stream for each of some documents of the update after `step` others, by their numbers in it; of
    /// [`TokenBatch::with_dropout`](crate::model::TokenBatch::with_dropout). Without dropout `None`.
    pub fn dropout_streams(&self, step: usize, documents: impl Iterator<Item = usize>) -> Option<Vec<u64>> {
        self.lora.as_ref().filter(|lora| lora.lora_dropout > 0.0)?;
        let update = split_mix(split_mix(self.seed).wrapping_add(step as u64));
        Some(documents.map(|document| split_mix(update.wrapping_add(document as u64))).collect())
    }

    /// Differences from the settings of a checkpoint, by name.
    pub fn changes_from(&self, saved: &Self) -> Vec<Change> {
        let (now, saved) = (leaves(self), leaves(saved));
        let names = now.keys().chain(saved.keys().filter(|name| !now.contains_key(*name)));
        let value = |of: &BTreeMap<String, Value>, name: &String| of.get(name).cloned().unwrap_or(Value::Null);
        let changes =
            names.map(|name| Change { name: name.clone(), saved: value(&saved, name), now: value(&now, name) });
        changes.filter(|change| change.saved != change.now).collect()
    }
}

/// The numbers and strings of the settings by their path: `adamw.beta1`, `data[0].weight`.
fn leaves(settings: &Settings) -> BTreeMap<String, Value> {
    fn collect(value: Value, path: String, leaves: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let path = if path.is_empty() { name } else { format!("{path}.{name}") };
                    collect(value, path, leaves);
                }
            }
            Value::Array(items) => {
                for (index, value) in items.into_iter().enumerate() {
                    collect(value, format!("{path}[{index}]"), leaves);
                }
            }
            value => {
                leaves.insert(path, value);
            }
        }
    }
    let mut found = BTreeMap::new();
    let value = serde_json::to_value(settings).expect("settings are finite numbers and strings");
    collect(value, String::new(), &mut found);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapting(names: &[&str]) -> LoraSettings {
        let target_modules = names.iter().map(|name| (*name).to_owned()).collect();
        LoraSettings { r: 2, lora_alpha: 4.0, use_rslora: false, lora_dropout: 0.0, target_modules }
    }

    #[test]
    fn all_linear_may_stand_beside_the_head() {
        let tied = DecoderConfig::pico();
        let untied = tied.with(|fields| fields.tie_word_embeddings = false).unwrap();
        let num_targets = |names: &[&str]| adapting(names).expanded(&untied).config().targets(&untied).unwrap().len();
        let num_linear = 7 * untied.num_hidden_layers;
        assert_eq!(num_targets(&["all-linear"]), num_linear);
        assert_eq!(num_targets(&["all-linear", "lm_head"]), num_linear + 1);
        assert_eq!(num_targets(&["q_proj", "all-linear"]), num_linear);
        assert!(adapting(&["all-linear", "lm_head"]).expanded(&untied).check_names(&untied).is_ok());
        let tied = adapting(&["all-linear", "lm_head"]).expanded(&tied).check_names(&tied).unwrap_err();
        assert!(tied.to_string().contains("in \"lm_head\""), "{tied}");
    }

    #[test]
    fn a_name_that_no_matrix_has_is_refused_beside_others() {
        let config = DecoderConfig::pico();
        assert!(adapting(&["q_proj", "self_attn.v_proj"]).check_names(&config).is_ok());
        let error = adapting(&["q_proj", "v_prj"]).check_names(&config).unwrap_err();
        assert!(error.to_string().contains("in \"v_prj\", expected some of q_proj"), "{error}");
    }
}
