//! Several models merged into a mixture of experts, as one source.

use super::error::MergeError;
use super::moe::MoeMergeConfig;
use super::moe_plan::{MergedRouter, MoeMergeOptions, MoeMergePlan};
use crate::config::DecoderConfig;
use crate::growth::draws::{Draws, Purpose};
use crate::growth::recipe::Recipe;
use crate::growth::step::{Step, dtype_after, stream_through};
use crate::weights::{Dtype, LayerTensor, Lineage, Projection, RawTensor, Sink, TensorId, WeightError, WeightSource};

/// Models merged by a `mergekit-moe` config: attention, norms, embeddings and head of the base, and as expert `k` the
/// MLPs of its model, with noise, `down_proj` scaled, and rounded to `dtype`, in this order.
///
/// Without a `dtype`, experts and routers take the type that the MLP of the base has there.
#[derive(Debug, Clone)]
pub struct MoeMerge<S> {
    sources: Vec<S>,
    merge: MoeMergeConfig,
    plan: MoeMergePlan,
}

impl<S: WeightSource> MoeMerge<S> {
    /// Plans for the configs of `sources`, which are the [`models`](MoeMergeConfig::models) of `config`, in order;
    /// reads no weight.
    ///
    /// # Errors
    /// Those of [`MoeMergeConfig::plan`].
    ///
    /// # Panics
    /// If there are not as many sources as models.
    pub fn new(config: &MoeMergeConfig, sources: Vec<S>, options: &MoeMergeOptions) -> Result<Self, MergeError> {
        let configs: Vec<&DecoderConfig> = sources.iter().map(WeightSource::config).collect();
        let plan = config.plan(&configs, options)?;
        Ok(Self { sources, merge: config.clone(), plan })
    }

    /// What it does.
    pub fn plan(&self) -> &MoeMergePlan {
        &self.plan
    }

    fn base(&self) -> &S {
        &self.sources[self.merge.base_model]
    }

    /// The model and weight that `id` starts as, and what is done to it; a router starts as nothing.
    fn recipe(&self, id: TensorId) -> (usize, TensorId, Vec<Step>) {
        let TensorId::Layer(layer, LayerTensor::Expert(place, projection)) = id else {
            let to = self.merge.dtype.filter(|&dtype| dtype != self.base().dtype(id));
            return (self.merge.base_model, id, to.map(Step::Cast).into_iter().collect());
        };
        let expert = &self.merge.experts[place];
        let source_id = TensorId::Layer(layer, LayerTensor::Mlp(projection));
        let values = Draws { seed: self.plan.seed, layer, purpose: Purpose::Values(place, projection) };
        let noise = expert.noise_scale.filter(|&std| std > 0.0).map(|std| Step::Noise { std, values });
        let is_residual = projection == Projection::Down;
        let scale = expert.residual_scale.filter(|&factor| is_residual && factor != 1.0).map(Step::Scale);
        let to = self.merge.dtype.unwrap_or_else(|| self.base().dtype(source_id));
        let cast = (to != self.sources[expert.model].dtype(source_id)).then_some(Step::Cast(to));
        (expert.model, source_id, [noise, scale, cast].into_iter().flatten().collect())
    }

    fn router_dtype(&self, layer: usize) -> Dtype {
        let gate = TensorId::Layer(layer, LayerTensor::Mlp(Projection::Gate));
        self.merge.dtype.unwrap_or_else(|| self.base().dtype(gate))
    }

    fn stream_router(&self, layer: usize, sink: &mut Sink<'_>) -> Result<(), WeightError> {
        let id = TensorId::Layer(layer, LayerTensor::Router);
        let dtype = self.router_dtype(layer);
        match &self.plan.router {
            MergedRouter::Rows(rows) => rows.stream(layer, dtype, sink),
            MergedRouter::Init(init) => {
                let values = Draws { seed: self.plan.seed, layer, purpose: Purpose::Router };
                Recipe::stream_router(*init, dtype, &id.shape(self.config()), values, sink)
            }
        }
    }
}

impl<S: WeightSource> WeightSource for MoeMerge<S> {
    fn config(&self) -> &DecoderConfig {
        &self.plan.config
    }

    fn dtype(&self, id: TensorId) -> Dtype {
        if let TensorId::Layer(layer, LayerTensor::Router) = id {
            return self.router_dtype(layer);
        }
        let (model, source_id, steps) = self.recipe(id);
        dtype_after(self.sources[model].dtype(source_id), &steps)
    }

    fn stream(&self, id: TensorId, sink: &mut Sink<'_>) -> Result<(), WeightError> {
        if let TensorId::Layer(layer, LayerTensor::Router) = id {
            return self.stream_router(layer, sink);
        }
        let (model, source_id, steps) = self.recipe(id);
        stream_through(&self.sources[model], source_id, &steps, sink)
    }

    fn read(&self, id: TensorId) -> Result<RawTensor, WeightError> {
        let mut bytes = Vec::new();
        self.stream(id, &mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(RawTensor::new(self.dtype(id), id.shape(self.config()), bytes))
    }

    /// Ends with the model that the weight is from, as the config names it: `expert 2 of teknium/OpenHermes`.
    fn lineage(&self, id: TensorId) -> Lineage {
        if let TensorId::Layer(_, LayerTensor::Router) = id {
            let step = match &self.plan.router {
                MergedRouter::Rows(_) => "router given".to_owned(),
                MergedRouter::Init(init) => format!("router {init}"),
            };
            return Lineage { root: None, steps: vec![step] };
        }
        let (model, source_id, steps) = self.recipe(id);
        let mut lineage = self.sources[model].lineage(source_id);
        let name = &self.merge.models()[model];
        lineage.steps.push(match id {
            TensorId::Layer(_, LayerTensor::Expert(expert, _)) => format!("expert {expert} of {name}"),
            _ => format!("of {name}"),
        });
        lineage.steps.extend(steps.iter().map(Step::to_string));
        lineage
    }
}
