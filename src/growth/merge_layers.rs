//! Layers of one or several models, one on the other.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use crate::config::DecoderConfig;
use crate::weights::{Dtype, Recipe, Step, TensorId};

/// Per layer of the result, a layer of one of the models; per weight, a factor. Embeddings come from the model of the
/// first layer, final norm and head from that of the last.
///
/// A weight is rounded to `dtype`, multiplied by its factor, and rounded to `out_dtype`, each only if given.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerMerge {
    #[serde(skip)]
    pub(super) config: DecoderConfig,
    #[serde(skip)]
    pub(super) models: Vec<String>,
    #[serde(skip)]
    pub(super) layers: Vec<MergedLayer>,
    #[serde(skip)]
    pub(super) factors: HashMap<TensorId, f64>,
    #[serde(skip)]
    pub(super) dtype: Option<Dtype>,
    #[serde(skip)]
    pub(super) out_dtype: Option<Dtype>,
}

/// The origin of a layer of a [`LayerMerge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergedLayer {
    /// Index of the model.
    pub model: usize,
    /// Index of the layer in that model.
    pub layer: usize,
}

impl LayerMerge {
    /// The config of the result.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The names of the models.
    pub fn models(&self) -> &[String] {
        &self.models
    }

    /// For each layer of the result, its origin.
    pub fn layers(&self) -> &[MergedLayer] {
        &self.layers
    }

    /// The recipe of a weight of the result.
    pub(super) fn recipe(&self, id: TensorId) -> Recipe {
        let (first, last) = (self.layers[0], self.layers[self.layers.len() - 1]);
        let (model, source) = match id {
            TensorId::Layer(place, tensor) => {
                let MergedLayer { model, layer } = self.layers[place];
                (model, TensorId::Layer(layer, tensor))
            }
            TensorId::EmbedTokens => (first.model, id),
            TensorId::Norm | TensorId::LmHead => (last.model, id),
        };
        let name = self.models[model].clone();
        let origin = match source {
            TensorId::Layer(layer, _) => Step::ModelLayer { layer, model: name },
            _ => Step::Model { model: name },
        };
        let dtype = self.dtype.map(|dtype| Step::Cast { dtype });
        let scale = self.factors.get(&id).map(|&factor| Step::Scale { factor });
        let out_dtype = self.out_dtype.map(|dtype| Step::Cast { dtype });
        let steps = [Some(origin), dtype, scale, out_dtype].into_iter().flatten().collect();
        Recipe { source: Some(source), model, steps }
    }
}

/// Runs of layers with their models: `a 0..24 ++ b 8..32 (48 layers)`.
impl fmt::Display for LayerMerge {
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
