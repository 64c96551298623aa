//! The MLPs of several models as the experts of one.

use serde::{Serialize, Serializer};

use super::routers::RouterRows;
use crate::config::DecoderConfig;
use crate::weights::{Dtype, LayerTensor, Like, Projection, Purpose, RandomStream, Recipe, RouterInit, Step, TensorId};

/// A mixture of experts made of several models: attention, norms, embeddings and head of the base; as expert `e` the MLPs
/// of its model, with noise, `down_proj` scaled, and rounded to `dtype`, in this order.
///
/// Without a `dtype`, experts and routers take the type of the base's MLP in their place.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertMerge {
    pub(super) config: DecoderConfig,
    pub(super) models: Vec<String>,
    pub(super) base_model: usize,
    pub(super) experts: Vec<MergedExpert>,
    pub(super) router: MergedRouter,
    /// How the config names the origin of the routers.
    pub(super) gate_mode: &'static str,
    pub(super) dtype: Option<Dtype>,
    pub(super) seed: u64,
}

/// An expert of an [`ExpertMerge`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MergedExpert {
    /// Index of the model.
    pub model: usize,
    /// Standard deviation of the noise on each of its matrices; 0 for none.
    pub noise_std: f64,
    /// Factor of its `down_proj`.
    pub residual_scale: f64,
}

/// The routers of an [`ExpertMerge`].
#[derive(Debug, Clone, PartialEq)]
pub(super) enum MergedRouter {
    /// Drawn at random.
    Init(RouterInit),
    /// Given.
    Rows(RouterRows),
}

impl ExpertMerge {
    /// The config of the result.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The names of the models.
    pub fn models(&self) -> &[String] {
        &self.models
    }

    /// The experts, in order.
    pub fn experts(&self) -> &[MergedExpert] {
        &self.experts
    }

    /// The name of the config's gate mode.
    pub fn gate_mode(&self) -> &'static str {
        self.gate_mode
    }

    /// The recipe of a weight of the result; `like` describes the weights of each model.
    pub(super) fn recipe(&self, like: &dyn Fn(usize, TensorId) -> Like, id: TensorId) -> Recipe {
        let in_type_of = |source| {
            let like = like(self.base_model, source);
            Like { dtype: self.dtype.unwrap_or(like.dtype), ..like }
        };
        let model = |model: usize| self.models[model].clone();
        match id {
            TensorId::Layer(layer, LayerTensor::Router) => {
                let like = in_type_of(TensorId::Layer(layer, LayerTensor::Mlp(Projection::Gate)));
                let (shape, values) =
                    ([self.experts.len(), self.config.hidden_size], self.stream(layer, Purpose::Router));
                match &self.router {
                    MergedRouter::Init(init) => Recipe::created_by(Step::Router { init: *init, shape, like, values }),
                    MergedRouter::Rows(rows) => rows.router(layer, self.config.hidden_size, like),
                }
            }
            TensorId::Layer(layer, LayerTensor::Expert(place, projection)) => {
                let MergedExpert { model: from, noise_std: std, residual_scale: factor } = self.experts[place];
                let source = TensorId::Layer(layer, LayerTensor::Mlp(projection));
                let values = self.stream(layer, Purpose::Values(place, projection));
                let scaled = projection == Projection::Down && factor != 1.0;
                let steps = [
                    Some(Step::ModelExpert { expert: place, model: model(from) }),
                    (std > 0.0).then_some(Step::Noise { std, values }),
                    scaled.then_some(Step::Scale { factor }),
                    Some(Step::Cast { dtype: in_type_of(source).dtype }),
                ];
                Recipe { source: Some(source), model: from, steps: steps.into_iter().flatten().collect() }
            }
            id => {
                let cast = self.dtype.map(|dtype| Step::Cast { dtype });
                let steps = [Some(Step::Model { model: model(self.base_model) }), cast];
                Recipe { source: Some(id), model: self.base_model, steps: steps.into_iter().flatten().collect() }
            }
        }
    }

    /// The same merge without noise.
    #[must_use]
    pub fn without_noise(&self) -> Self {
        let experts = self.experts.iter().map(|expert| MergedExpert { noise_std: 0.0, ..*expert }).collect();
        Self { experts, ..self.clone() }
    }

    fn stream(&self, layer: usize, purpose: Purpose) -> RandomStream {
        RandomStream { seed: self.seed, layer, purpose }
    }
}

impl Serialize for ExpertMerge {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Record {
            num_local_experts: usize,
            gate_mode: &'static str,
            seed: u64,
        }
        let Self { experts, gate_mode, seed, .. } = self;
        Record { num_local_experts: experts.len(), gate_mode, seed: *seed }.serialize(serializer)
    }
}
