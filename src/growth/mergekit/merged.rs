//! Several models merged by a plan, as one source.

use super::error::MergeError;
use super::passthrough::PassthroughConfig;
use super::plan::MergePlan;
use crate::config::DecoderConfig;
use crate::growth::step::{Step, dtype_after, stream_through};
use crate::weights::{Change, Dtype, Lineage, Sink, TensorId, WeightError, WeightSource};

/// Models stacked by a `passthrough` config: a view, like [`Grown`](crate::growth::Grown).
///
/// A weight is rounded to `dtype`, multiplied by its factor, and rounded to `out_dtype`, each only where the config
/// says so; without, its bytes are the model's.
#[derive(Debug, Clone)]
pub struct Merged<S> {
    sources: Vec<S>,
    plan: MergePlan,
}

impl<S: WeightSource> Merged<S> {
    /// Plans for the configs of `sources`, which are the [`models`](PassthroughConfig::models) of `config`, in order;
    /// reads no weight.
    ///
    /// # Errors
    /// Those of [`PassthroughConfig::plan`].
    ///
    /// # Panics
    /// If there are not as many sources as models.
    pub fn new(config: &PassthroughConfig, sources: Vec<S>) -> Result<Self, MergeError> {
        let configs: Vec<&DecoderConfig> = sources.iter().map(WeightSource::config).collect();
        let plan = config.plan(&configs)?;
        Ok(Self { sources, plan })
    }

    /// What it does.
    pub fn plan(&self) -> &MergePlan {
        &self.plan
    }

    fn recipe(&self, id: TensorId) -> (&S, TensorId, Vec<Step>) {
        let (model, source_id) = self.plan.source_of(id);
        let source = &self.sources[model];
        let mut dtype = source.dtype(source_id);
        let mut steps = Vec::new();
        let casts = [self.plan.dtype().map(Step::Cast), self.plan.factor(id).map(Step::Scale)];
        for step in casts.into_iter().chain([self.plan.out_dtype().map(Step::Cast)]).flatten() {
            if step != Step::Cast(dtype) {
                dtype = step.dtype(dtype);
                steps.push(step);
            }
        }
        (source, source_id, steps)
    }
}

impl<S: WeightSource> WeightSource for Merged<S> {
    fn config(&self) -> &DecoderConfig {
        self.plan.config()
    }

    fn dtype(&self, id: TensorId) -> Dtype {
        let (source, source_id, steps) = self.recipe(id);
        dtype_after(source.dtype(source_id), &steps)
    }

    fn stream(&self, id: TensorId, sink: &mut Sink<'_>) -> Result<(), WeightError> {
        let (source, source_id, steps) = self.recipe(id);
        stream_through(source, source_id, &steps, sink)
    }

    /// Ends with the model that the weight is from, as the config names it: `layer 3 of mistralai/Mistral-7B-v0.1`.
    fn lineage(&self, id: TensorId) -> Lineage {
        let (model, source_id) = self.plan.source_of(id);
        let (source, _, steps) = self.recipe(id);
        let mut lineage = source.lineage(source_id);
        let model = self.plan.model(model).to_owned();
        lineage.steps.push(match source_id {
            TensorId::Layer(layer, _) => Change::ModelLayer { layer, model },
            _ => Change::Model { model },
        });
        lineage.steps.extend(steps.iter().map(Step::change));
        lineage
    }
}
