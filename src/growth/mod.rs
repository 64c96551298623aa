//! Growth is a view: a plan over configs, applied to weights only as they are read.
//!
//! A [`GrowthPlan`] says of every weight of the grown decoder how it comes from the source: a [`Recipe`]. [`Grown`]
//! puts a plan before any [`WeightSource`] and is one itself, so growths compose, and what is grown can be loaded into
//! a model or written to a checkpoint without an intermediate file. What is not named by a plan (embeddings, norms,
//! attention, head) keeps its bytes.
//!
//! ```
//! use deepwide::config::DecoderConfig;
//! use deepwide::growth::{Grown, GrowthPlan, LayerPlan, UpcyclePlan};
//! use deepwide::weights::{Dtype, MemoryWeights, RawTensor, WeightSource};
//!
//! let config = DecoderConfig::pico();
//! let base = MemoryWeights::new(config.clone(), |id| {
//!     let shape = id.shape(&config);
//!     let zeros = vec![0.0; shape.iter().product()];
//!     RawTensor::from_f32(Dtype::Bfloat16, shape, &zeros)
//! });
//! let deep = Grown::new(base, GrowthPlan::Splice(LayerPlan::depth_up_scaling(8, 2)?))?;
//! assert_eq!(deep.config().num_hidden_layers, 12);
//! let deep_and_wide = Grown::new(deep, GrowthPlan::Upcycle(UpcyclePlan::new(4, 2)))?;
//! assert!(deep_and_wide.config().moe.is_some());
//! # Ok::<(), deepwide::growth::PlanError>(())
//! ```

mod cast;
mod depth;
mod error;
mod expand;
mod given_routers;
mod granularity;
pub mod mergekit;
mod random_stream;
mod recipe;
mod step;
mod width;

pub use cast::Cast;
pub use depth::LayerPlan;
pub use error::PlanError;
pub use expand::BlockExpansion;
pub use given_routers::{GivenRouters, RouterRows};
pub use granularity::FineGrained;
pub use random_stream::{Purpose, RandomStream};
pub use recipe::Recipe;
pub use width::{ExpertInit, RouterInit, UpcyclePlan};

use serde::Serialize;

use crate::config::DecoderConfig;
use crate::weights::{
    Change, Dtype, LayerTensor, Lineage, PackedTensor, RawTensor, Sink, TensorId, WeightError, WeightSource,
};

/// One way to grow a decoder.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GrowthPlan {
    /// Deep: layers of the source, repeated, reordered or left out.
    Splice(LayerPlan),
    /// Deep: copies of layers that compute nothing yet.
    Expand(BlockExpansion),
    /// Wide: the MLP of each layer becomes a mixture of experts.
    Upcycle(UpcyclePlan),
}

impl GrowthPlan {
    /// The decoder that this plan makes of `source`.
    ///
    /// # Errors
    /// [`PlanError::DepthsDisagree`] for a splice or expansion of another depth. For an upcycle, [`PlanError::AlreadySparse`],
    /// [`PlanError::Config`], [`PlanError::BadNoise`], [`PlanError::BadDropRatio`], [`PlanError::BadRouterStd`],
    /// [`PlanError::TooManyOrthogonalRows`].
    pub fn config(&self, source: &DecoderConfig) -> Result<DecoderConfig, PlanError> {
        match self {
            Self::Splice(plan) => plan.config(source),
            Self::Expand(plan) => plan.layers().config(source),
            Self::Upcycle(plan) => plan.config(source),
        }
    }

    /// How the weight `id` of the grown decoder comes from a source of this config.
    ///
    /// # Panics
    /// If `id` is not a weight of the decoder that [`config`](Self::config) gives.
    pub fn recipe(&self, source: &DecoderConfig, id: TensorId) -> Recipe {
        match self {
            Self::Splice(plan) => Recipe::Copy { source: plan.source_of(id) },
            Self::Expand(plan) => plan.recipe(id),
            Self::Upcycle(plan) => plan.recipe(source, id),
        }
    }
}

/// A source grown by a plan.
#[derive(Debug, Clone)]
pub struct Grown<S> {
    source: S,
    plan: GrowthPlan,
    config: DecoderConfig,
}

impl<S: WeightSource> Grown<S> {
    /// Checks `plan` against the config of `source`; reads no weight.
    ///
    /// # Errors
    /// Those of [`GrowthPlan::config`].
    pub fn new(source: S, plan: GrowthPlan) -> Result<Self, PlanError> {
        let config = plan.config(source.config())?;
        Ok(Self { source, plan, config })
    }

    /// How the weight `id` comes from the source.
    ///
    /// # Panics
    /// If `id` is not a weight of this decoder.
    pub fn recipe(&self, id: TensorId) -> Recipe {
        self.plan.recipe(self.source.config(), id)
    }

    fn step(&self, id: TensorId, recipe: &Recipe) -> Option<Change> {
        match (&self.plan, id, recipe.source()) {
            (GrowthPlan::Splice(plan), TensorId::Layer(..), Some(TensorId::Layer(layer, _))) => {
                Some(Change::Layer { layer, num_layers: plan.num_source_layers() })
            }
            (GrowthPlan::Expand(plan), TensorId::Layer(..), Some(TensorId::Layer(layer, _))) => {
                Some(Change::Layer { layer, num_layers: plan.layers().num_source_layers() })
            }
            (GrowthPlan::Expand(_), TensorId::Layer(..), None) => Some(recipe.change()),
            (GrowthPlan::Upcycle(_), TensorId::Layer(_, LayerTensor::Router | LayerTensor::Expert(..)), _) => {
                Some(recipe.change())
            }
            _ => None,
        }
    }
}

/// Where a plan copies, the bytes and the type are the source's; a fresh router takes the type of the gate projection
/// that it stands before.
impl<S: WeightSource> WeightSource for Grown<S> {
    fn config(&self) -> &DecoderConfig {
        &self.config
    }

    fn dtype(&self, id: TensorId) -> Dtype {
        self.recipe(id).dtype(&self.source)
    }

    fn stream(&self, id: TensorId, sink: &mut Sink<'_>) -> Result<(), WeightError> {
        self.recipe(id).stream(&self.source, &id.shape(&self.config), sink)
    }

    fn read(&self, id: TensorId) -> Result<RawTensor, WeightError> {
        match self.recipe(id) {
            Recipe::Copy { source } => self.source.read(source),
            recipe => {
                let (dtype, shape) = (recipe.dtype(&self.source), id.shape(&self.config));
                let mut bytes = Vec::with_capacity(shape.iter().product::<usize>() * dtype.size_bytes());
                recipe.stream(&self.source, &shape, &mut |piece| {
                    bytes.extend_from_slice(piece);
                    Ok(())
                })?;
                Ok(RawTensor::new(dtype, shape, bytes))
            }
        }
    }

    fn packed(&self, id: TensorId) -> Result<Option<PackedTensor>, WeightError> {
        match self.recipe(id) {
            Recipe::Copy { source } => self.source.packed(source),
            _ => Ok(None),
        }
    }

    fn lineage(&self, id: TensorId) -> Lineage {
        let recipe = self.recipe(id);
        let fresh = Lineage { root: None, steps: Vec::new() };
        let mut lineage = recipe.source().map_or(fresh, |source| self.source.lineage(source));
        lineage.steps.extend(self.step(id, &recipe));
        lineage
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{MemoryWeights, Projection};

    fn base() -> MemoryWeights {
        let config = DecoderConfig::pico();
        MemoryWeights::new(config.clone(), |id| {
            let shape = id.shape(&config);
            let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| (i % 7) as f32 - 3.0).collect();
            let router_like = id == TensorId::Layer(1, LayerTensor::Mlp(Projection::Gate));
            RawTensor::from_f32(if router_like { Dtype::Float16 } else { Dtype::Bfloat16 }, shape, &values)
        })
    }

    fn deeper(num_layers: usize, overlap: usize) -> GrowthPlan {
        GrowthPlan::Splice(LayerPlan::depth_up_scaling(num_layers, overlap).unwrap())
    }

    #[test]
    fn a_splice_fits_only_a_source_of_its_depth() {
        let error = Grown::new(base(), deeper(32, 8)).unwrap_err();
        assert_eq!(error.to_string(), "the plan is for 32 layers, but its source has 8");
    }

    #[test]
    fn a_splice_changes_the_number_of_layers_and_no_other_field() {
        let grown = Grown::new(base(), deeper(8, 2)).unwrap();
        let expected = DecoderConfig::pico().with(|f| f.num_hidden_layers = 12).unwrap();
        assert_eq!(grown.config(), &expected);
    }

    #[test]
    fn upcycling_twice_is_refused() {
        let wide = Grown::new(base(), GrowthPlan::Upcycle(UpcyclePlan::new(4, 2))).unwrap();
        let error = Grown::new(wide, GrowthPlan::Upcycle(UpcyclePlan::new(4, 2))).unwrap_err();
        assert_eq!(error, PlanError::AlreadySparse { num_local_experts: 4 });
    }

    #[test]
    fn a_router_takes_the_type_of_the_gate_projection_of_its_layer() {
        let wide = Grown::new(base(), GrowthPlan::Upcycle(UpcyclePlan::new(4, 2))).unwrap();
        for (layer, dtype) in [(0, Dtype::Bfloat16), (1, Dtype::Float16)] {
            let router = TensorId::Layer(layer, LayerTensor::Router);
            assert_eq!(wide.dtype(router), dtype);
            assert_eq!(wide.read(router).unwrap().dtype(), dtype);
        }
    }

    #[test]
    fn lineage_tells_what_each_growth_did() {
        let init = ExpertInit::Drop { ratio: 0.5 };
        let wide = UpcyclePlan { init, ..UpcyclePlan::new(4, 2) };
        let grown = Grown::new(base(), deeper(8, 2)).unwrap();
        let grown = Grown::new(grown, GrowthPlan::Upcycle(wide)).unwrap();
        let grown = Grown::new(grown, deeper(12, 1)).unwrap();
        let up = LayerTensor::Expert(3, Projection::Up);
        let told = |lineage: &Lineage| lineage.steps.iter().map(Change::to_string).collect::<Vec<_>>();
        let expert = grown.lineage(TensorId::Layer(18, up));
        assert_eq!(expert.root, Some(TensorId::Layer(4, LayerTensor::Mlp(Projection::Up))));
        assert_eq!(told(&expert), ["layer 4 of 8", "drop 168 dimensions", "layer 8 of 12"]);
        let router = grown.lineage(TensorId::Layer(18, LayerTensor::Router));
        assert_eq!(router.root, None);
        assert_eq!(told(&router), ["router normal(0.02)", "layer 8 of 12"]);
        assert_eq!(grown.lineage(TensorId::Norm), Lineage { root: Some(TensorId::Norm), steps: vec![] });
    }
}
