//! The plan of a `passthrough` config.

use std::collections::HashMap;

use super::error::{Difference, MergeError, MergeFault, MergeRule, MergeWarning};
use super::passthrough::{PassthroughConfig, Slice};
use crate::config::DecoderConfig;
use crate::error::{InFile, quoted};
use crate::growth::{LayerMerge, MergedLayer, PlanError};
use crate::weights::{LayerTensor, TensorId};

/// Cap on the layers of the result.
const MAX_LAYERS: usize = 1024;

impl PassthroughConfig {
    /// The plan for models of these configs, in the order of [`models`](Self::models).
    ///
    /// The result has the config of `base_model`, or of the first slice's model, with another number of layers.
    ///
    /// # Errors
    /// [`MergeRule::ModelsDiffer`], [`MergeRule::BadRange`], [`MergeRule::TooManyLayers`].
    ///
    /// # Panics
    /// If there are not as many configs as models.
    pub fn plan(&self, configs: &[&DecoderConfig]) -> Result<LayerMerge, MergeError> {
        self.checked_plan(configs).map_err(InFile::at(&self.file))
    }

    fn checked_plan(&self, configs: &[&DecoderConfig]) -> Result<LayerMerge, MergeFault> {
        assert_eq!(configs.len(), self.models().len(), "a config for each model");
        let refused = |slice: &Slice, rule| MergeFault { at: slice.at, rule };
        let name = |model: usize| self.models()[model].to_string();
        let main = self.main_model();
        let mut layers: Vec<MergedLayer> = Vec::new();
        let mut factors = HashMap::new();
        for slice in &self.slices {
            let differences = differences(configs[main], configs[slice.model]);
            if !differences.is_empty() {
                let (first, other) = (name(main), name(slice.model));
                return Err(refused(slice, MergeRule::ModelsDiffer { first, other, differences }));
            }
            let num_layers = configs[slice.model].num_hidden_layers;
            let range = slice.layers.clone().unwrap_or(0..num_layers);
            if range.end > num_layers {
                let model = quoted(&name(slice.model));
                let expected = format!("expected an end of at most {num_layers}, the layers of {model}");
                return Err(refused(slice, MergeRule::BadRange { start: range.start, end: range.end, expected }));
            }
            let found = layers.len() + range.len();
            if found > MAX_LAYERS {
                return Err(refused(slice, MergeRule::TooManyLayers { found, limit: MAX_LAYERS }));
            }
            for (place, layer) in range.clone().enumerate() {
                let t = if range.len() > 1 { place as f64 / (range.len() - 1) as f64 } else { 1.0 };
                for tensor in LayerTensor::all(configs[main]) {
                    let factor = slice.factor(TensorId::Layer(layer, tensor), t);
                    factors.extend(factor.map(|factor| (TensorId::Layer(layers.len(), tensor), factor)));
                }
                layers.push(MergedLayer { model: slice.model, layer });
            }
        }
        let (first, last) = (&self.slices[0], &self.slices[self.slices.len() - 1]);
        for (id, slice) in [(TensorId::EmbedTokens, first), (TensorId::Norm, last), (TensorId::LmHead, last)] {
            factors.extend(slice.factor(id, 0.0).map(|factor| (id, factor)));
        }
        let config = configs[main]
            .with(|fields| fields.num_hidden_layers = layers.len())
            .map_err(|error| refused(first, PlanError::Config(error).into()))?;
        let models = self.models().iter().map(ToString::to_string).collect();
        Ok(LayerMerge { config, models, layers, factors, dtype: self.dtype, out_dtype: self.out_dtype })
    }

    /// What `plan`, made for models of these configs, does that may not be meant.
    pub fn warnings(&self, plan: &LayerMerge, configs: &[&DecoderConfig]) -> Vec<MergeWarning> {
        let is_used = |layer: &usize| plan.layers().iter().any(|merged| merged.layer == *layer);
        let all = 0..configs[self.main_model()].num_hidden_layers;
        let layers: Vec<usize> = all.filter(|layer| !is_used(layer)).collect();
        if layers.is_empty() { Vec::new() } else { vec![MergeWarning::UnusedLayers { layers }] }
    }

    /// Index of the model that gives the config.
    fn main_model(&self) -> usize {
        self.base_model.unwrap_or(self.slices[0].model)
    }
}

impl Slice {
    /// The factor of a weight of the slice's model, from the most specific setting that applies.
    fn factor(&self, source: TensorId, t: f64) -> Option<f64> {
        if self.scale.is_empty() {
            return None;
        }
        let name = source.to_string();
        self.scale.iter().find_map(|setting| setting.value(&name, t)).filter(|&factor| factor != 1.0)
    }
}

/// Fields that must be equal and are not. Merging changes the depth, and a longer context is no difference of weights.
fn differences(first: &DecoderConfig, other: &DecoderConfig) -> Vec<Difference> {
    let fields = |config: &DecoderConfig| match serde_json::to_value(config) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => unreachable!("a config is a JSON object"),
    };
    let (first, other) = (fields(first), fields(other));
    let differs = |field: &String| field != "num_hidden_layers" && field != "max_position_embeddings";
    let pairs = first.iter().filter(|(field, value)| differs(field) && other.get(*field) != Some(value));
    pairs
        .map(|(field, value)| Difference {
            field: field.clone(),
            first: value.to_string(),
            other: other.get(field).map_or_else(String::new, ToString::to_string),
        })
        .collect()
}
