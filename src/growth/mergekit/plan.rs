//! What a `passthrough` config makes of its models: which weight of which, times what.

use std::collections::HashMap;
use std::fmt;

use super::error::{Difference, Fault, MergeError, MergeWarning};
use super::passthrough::{PassthroughConfig, Slice};
use crate::config::DecoderConfig;
use crate::growth::PlanError;
use crate::weights::{Dtype, LayerTensor, TensorId};

/// Layers of the deepest result.
const MAX_LAYERS: usize = 1024;

/// Per layer of the result, a layer of one of the models; per weight, a factor. Computed from configs alone.
///
/// Embeddings come from the first slice's model, final norm and head from the last slice's.
#[derive(Debug, Clone, PartialEq)]
pub struct MergePlan {
    config: DecoderConfig,
    models: Vec<String>,
    layers: Vec<MergedLayer>,
    factors: HashMap<TensorId, f64>,
    dtype: Option<Dtype>,
    out_dtype: Option<Dtype>,
    warnings: Vec<MergeWarning>,
}

/// Where a layer of the result comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergedLayer {
    /// Place of the model in [`PassthroughConfig::models`].
    pub model: usize,
    /// The layer there.
    pub layer: usize,
}

impl PassthroughConfig {
    /// The plan for models of these configs, in the order of [`models`](Self::models).
    ///
    /// The result has the fields of `base_model`, or of the first slice's model, with another number of layers.
    ///
    /// # Errors
    /// A [`MergeError`] whose fault is [`Fault::ModelsDiffer`], [`Fault::OutOfBounds`] or [`Fault::TooManyLayers`].
    ///
    /// # Panics
    /// If there are not as many configs as models.
    pub fn plan(&self, configs: &[&DecoderConfig]) -> Result<MergePlan, MergeError> {
        assert_eq!(configs.len(), self.models().len(), "a config for each model");
        let refuse = |slice: &Slice, fault| MergeError { file: self.file.clone(), at: slice.at, fault };
        let name = |model: usize| self.models()[model].to_string();
        let main = self.base_model.unwrap_or(self.slices[0].model);
        let mut layers: Vec<MergedLayer> = Vec::new();
        let mut factors = HashMap::new();
        for slice in &self.slices {
            let differences = differences(configs[main], configs[slice.model]);
            if !differences.is_empty() {
                let (first, other) = (name(main), name(slice.model));
                return Err(refuse(slice, Fault::ModelsDiffer { first, other, differences }));
            }
            let num_layers = configs[slice.model].num_hidden_layers;
            let range = slice.layers.clone().unwrap_or(0..num_layers);
            if range.end > num_layers {
                let (start, end, model) = (range.start, range.end, name(slice.model));
                return Err(refuse(slice, Fault::OutOfBounds { start, end, model, num_layers }));
            }
            let found = layers.len() + range.len();
            if found > MAX_LAYERS {
                return Err(refuse(slice, Fault::TooManyLayers { found, limit: MAX_LAYERS }));
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
            .map_err(|error| refuse(first, Fault::Plan(PlanError::Config(error))))?;
        Ok(MergePlan {
            config,
            models: self.models().iter().map(ToString::to_string).collect(),
            warnings: unused(&layers, configs[main]).into_iter().collect(),
            layers,
            factors,
            dtype: self.dtype,
            out_dtype: self.out_dtype,
        })
    }
}

impl Slice {
    /// What a weight of the slice's model is multiplied by: the most particular setting that says something.
    fn factor(&self, source: TensorId, t: f64) -> Option<f64> {
        if self.scale.is_empty() {
            return None;
        }
        let name = source.to_string();
        self.scale.iter().find_map(|setting| setting.value(&name, t)).filter(|&factor| factor != 1.0)
    }
}

impl MergePlan {
    /// The decoder that the plan makes.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// For each layer of the result, where it comes from.
    pub fn layers(&self) -> &[MergedLayer] {
        &self.layers
    }

    /// The model, as a place in [`PassthroughConfig::models`], and its weight that stands at `id` of the result.
    ///
    /// # Panics
    /// If `id` is of a layer that the result does not have.
    pub fn source_of(&self, id: TensorId) -> (usize, TensorId) {
        match id {
            TensorId::Layer(layer, tensor) => {
                let MergedLayer { model, layer } = self.layers[layer];
                (model, TensorId::Layer(layer, tensor))
            }
            TensorId::EmbedTokens => (self.layers[0].model, id),
            TensorId::Norm | TensorId::LmHead => (self.layers[self.layers.len() - 1].model, id),
        }
    }

    /// What the weight `id` is multiplied by; `None` if its numbers are the model's.
    pub fn factor(&self, id: TensorId) -> Option<f64> {
        self.factors.get(&id).copied()
    }

    /// The type that weights are rounded to before they are multiplied, if the config says so.
    pub fn dtype(&self) -> Option<Dtype> {
        self.dtype
    }

    /// The type that weights are rounded to in the end, if the config says so.
    pub fn out_dtype(&self) -> Option<Dtype> {
        self.out_dtype
    }

    /// What may not be meant.
    pub fn warnings(&self) -> &[MergeWarning] {
        &self.warnings
    }

    /// The name of a model.
    pub(super) fn model(&self, model: usize) -> &str {
        &self.models[model]
    }
}

/// The runs of layers, each with its model: `a 0..24 ++ b 8..32 (48 layers)`.
impl fmt::Display for MergePlan {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let follows =
            |below: &MergedLayer, above: &MergedLayer| below.model == above.model && above.layer == below.layer + 1;
        for (index, run) in self.layers.chunk_by(follows).enumerate() {
            let MergedLayer { model, layer } = run[0];
            let join = if index == 0 { "" } else { " ++ " };
            write!(f, "{join}{} {layer}..{}", self.models[model], layer + run.len())?;
        }
        let plural = if self.layers.len() == 1 { "" } else { "s" };
        write!(f, " ({} layer{plural})", self.layers.len())
    }
}

/// Fields that must agree and do not. Depth is what merging changes, and a longer context is only a promise.
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

/// Layers of a model as deep as the main one that no slice has.
fn unused(layers: &[MergedLayer], main: &DecoderConfig) -> Option<MergeWarning> {
    let is_used = |layer: &usize| layers.iter().any(|merged| merged.layer == *layer);
    let layers: Vec<usize> = (0..main.num_hidden_layers).filter(|layer| !is_used(layer)).collect();
    (!layers.is_empty()).then_some(MergeWarning::UnusedLayers { layers })
}
