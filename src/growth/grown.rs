//! The one view of growth: a source, or several, grown by a list of plans.

use super::depth::LayerPlan;
use super::error::PlanError;
use super::making::Making;
use super::plan::GrowthPlan;
use super::statistics::Deviations;
use crate::config::DecoderConfig;
use crate::weights::{
    Dtype, GgmlType, LayerTensor, Like, PackedTensor, RawTensor, Recipe, Sink, Step, TensorId, WeightError,
    WeightSource,
};

/// A source grown by plans, which is again a source: nothing is read until a weight is.
///
/// Each weight has one [`Recipe`], from the source to the result of the last plan, which is executed when the weight is
/// streamed and returned by [`lineage`](WeightSource::lineage). Weights that no plan computes keep their bytes and type.
#[derive(Debug, Clone)]
pub struct Grown<S> {
    sources: Vec<S>,
    /// Those of each source.
    deviations: Vec<Deviations>,
    stages: Vec<Stage>,
}

/// A plan, checked against what it is applied to.
#[derive(Debug, Clone)]
struct Stage {
    plan: GrowthPlan,
    /// The layers of a growth in depth.
    layers: Option<LayerPlan>,
    /// The config after.
    config: DecoderConfig,
}

impl<S: WeightSource> Grown<S> {
    /// Applies one plan.
    ///
    /// # Errors
    /// Those of [`GrowthPlan::config`]; [`PlanError::ModelCount`] for a merge of several models.
    pub fn new(source: S, plan: GrowthPlan) -> Result<Self, PlanError> {
        Self::all(source, [plan])
    }

    /// Applies plans in order; without one, the result is the source.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn all(source: S, plans: impl IntoIterator<Item = GrowthPlan>) -> Result<Self, PlanError> {
        Self::merge(vec![source], plans)
    }

    /// Merges several models by the first plan and applies the others in order.
    ///
    /// # Errors
    /// Those of [`GrowthPlan::config`]; [`PlanError::ModelCount`].
    pub fn merge(sources: Vec<S>, plans: impl IntoIterator<Item = GrowthPlan>) -> Result<Self, PlanError> {
        let plans: Vec<GrowthPlan> = plans.into_iter().collect();
        let expected = plans.first().map_or(1, GrowthPlan::num_models);
        if sources.len() != expected {
            return Err(PlanError::ModelCount { found: sources.len(), expected });
        }
        let deviations = sources.iter().map(|_| Deviations::default()).collect();
        let mut grown = Self { sources, deviations, stages: Vec::new() };
        for plan in plans {
            grown = grown.then(plan)?;
        }
        Ok(grown)
    }

    /// Applies one more plan.
    ///
    /// # Errors
    /// Those of [`GrowthPlan::config`]; [`PlanError::LateMerge`].
    pub fn then(mut self, plan: GrowthPlan) -> Result<Self, PlanError> {
        if plan.is_merge() && !self.stages.is_empty() {
            return Err(PlanError::LateMerge);
        }
        let (config, layers) = (plan.config(self.config())?, plan.layers(self.config().num_hidden_layers)?);
        self.stages.push(Stage { plan, layers, config });
        Ok(self)
    }

    /// The plans, in the order of application.
    pub fn plans(&self) -> impl Iterator<Item = &GrowthPlan> {
        self.stages.iter().map(|stage| &stage.plan)
    }

    /// How the weight `id` is made of the sources.
    ///
    /// # Panics
    /// If `id` is not a weight of this decoder.
    pub fn recipe(&self, id: TensorId) -> Recipe {
        self.recipe_after(self.stages.len(), id)
    }

    /// Checks that every weight can be computed from the types of the sources; reads no weight.
    ///
    /// # Errors
    /// [`WeightError::NotComputable`].
    pub fn check_types(&self) -> Result<(), WeightError> {
        let config = self.config();
        // All experts of a dense base are made of one MLP, so the first stands for them: there may be a great many.
        let is_upcycled = self.sources.len() == 1 && self.sources[0].config().moe.is_none();
        let mut tensors = LayerTensor::all(config);
        tensors.retain(|tensor| !(is_upcycled && matches!(tensor, LayerTensor::Expert(1.., _))));
        let tensors = &tensors;
        let layers = (0..config.num_hidden_layers)
            .flat_map(|layer| tensors.iter().map(move |tensor| TensorId::Layer(layer, *tensor)));
        let head = (!config.tie_word_embeddings).then_some(TensorId::LmHead);
        let mut ids = std::iter::once(TensorId::EmbedTokens).chain(layers).chain([TensorId::Norm]).chain(head);
        ids.try_for_each(|id| self.making(&self.recipe(id)).check())
    }

    /// The recipe of a weight of the result of the first `num_stages` plans.
    fn recipe_after(&self, num_stages: usize, id: TensorId) -> Recipe {
        let Some(last) = num_stages.checked_sub(1) else { return Recipe::of(id) };
        let like = |model: usize, id: TensorId| {
            let before = if last == 0 { Recipe { model, ..Recipe::of(id) } } else { self.recipe_after(last, id) };
            Like { id: before.source.unwrap_or(id), dtype: self.making(&before).dtype() }
        };
        let Stage { plan, layers, .. } = &self.stages[last];
        let own = plan.recipe(self.config_after(last), layers.as_ref(), &like, id);
        let mut recipe = match own.source {
            Some(source) if last > 0 => self.recipe_after(last, source),
            source => Recipe { source, model: own.model, steps: Vec::new() },
        };
        for step in own.steps {
            // A cast to the type that the weight has is no step.
            if !matches!(step, Step::Cast { dtype } if dtype == self.making(&recipe).dtype()) {
                recipe.steps.push(step);
            }
        }
        recipe
    }

    fn config_after(&self, num_stages: usize) -> &DecoderConfig {
        num_stages.checked_sub(1).map_or_else(|| self.sources[0].config(), |last| &self.stages[last].config)
    }

    fn making<'a>(&'a self, recipe: &'a Recipe) -> Making<'a, S> {
        Making {
            source: &self.sources[recipe.model],
            id: recipe.source,
            steps: &recipe.steps,
            deviations: &self.deviations[recipe.model],
        }
    }
}

impl<S: WeightSource> WeightSource for Grown<S> {
    fn config(&self) -> &DecoderConfig {
        self.config_after(self.stages.len())
    }

    fn dtype(&self, id: TensorId) -> Dtype {
        self.making(&self.recipe(id)).dtype()
    }

    fn stream(&self, id: TensorId, sink: &mut Sink<'_>) -> Result<(), WeightError> {
        self.making(&self.recipe(id)).stream(sink)
    }

    fn read(&self, id: TensorId) -> Result<RawTensor, WeightError> {
        let recipe = self.recipe(id);
        if let Some(source) = recipe.copied() {
            return self.sources[recipe.model].read(source);
        }
        let making = self.making(&recipe);
        let (dtype, shape) = (making.dtype(), making.shape());
        let mut bytes = Vec::with_capacity(shape.iter().product::<usize>() * dtype.size_bytes());
        making.stream(&mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(RawTensor::new(dtype, shape, bytes))
    }

    fn packed_type(&self, id: TensorId) -> Option<GgmlType> {
        let recipe = self.recipe(id);
        self.sources[recipe.model].packed_type(recipe.copied()?)
    }

    fn packed(&self, id: TensorId) -> Result<Option<PackedTensor>, WeightError> {
        let recipe = self.recipe(id);
        recipe.copied().map_or(Ok(None), |source| self.sources[recipe.model].packed(source))
    }

    fn lineage(&self, id: TensorId) -> Recipe {
        let Recipe { source, model, steps } = self.recipe(id);
        let Some(source) = source else { return Recipe { source, model, steps } };
        let mut lineage = self.sources[model].lineage(source);
        lineage.model = model;
        lineage.steps.extend(steps);
        lineage
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use super::super::{ExpertInit, UpcyclePlan};
    use super::*;
    use crate::weights::{MemoryWeights, Projection};

    fn base() -> MemoryWeights {
        let config = DecoderConfig::pico();
        MemoryWeights::new(config.clone(), |id| {
            let shape = id.shape(&config);
            let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| (i % 7) as f32 - 3.0).collect();
            let is_gate = id == TensorId::Layer(1, LayerTensor::Mlp(Projection::Gate));
            RawTensor::from_f32(if is_gate { Dtype::Float16 } else { Dtype::Bfloat16 }, shape, &values)
        })
    }

    fn deeper(num_layers: usize, overlap: usize) -> GrowthPlan {
        GrowthPlan::Splice(LayerPlan::depth_up_scaling(num_layers, overlap).unwrap())
    }

    fn wider() -> GrowthPlan {
        let init = ExpertInit::Drop { ratio: 0.5 };
        GrowthPlan::Upcycle(UpcyclePlan { init, ..UpcyclePlan::new(4, 2) })
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
        let error = Grown::all(base(), [wider(), wider()]).unwrap_err();
        assert_eq!(error, PlanError::AlreadySparse { num_local_experts: 4 });
    }

    #[test]
    fn a_router_takes_the_type_of_the_gate_projection_of_its_layer() {
        let wide = Grown::new(base(), wider()).unwrap();
        for (layer, dtype) in [(0, Dtype::Bfloat16), (1, Dtype::Float16)] {
            let router = TensorId::Layer(layer, LayerTensor::Router);
            assert_eq!(wide.dtype(router), dtype);
            assert_eq!(wide.read(router).unwrap().dtype(), dtype);
        }
    }

    #[test]
    fn a_list_of_plans_is_a_view_of_a_view() {
        let plans = [
            deeper(8, 2),
            wider(),
            GrowthPlan::Granularity { num_parts: 3 },
            GrowthPlan::Cast { dtype: Dtype::Float16 },
            deeper(12, 1),
        ];
        let listed = Grown::all(base(), plans.clone()).unwrap();
        let [first, second, third, fourth, fifth] = plans;
        let nested = Grown::new(Grown::all(base(), [first, second]).unwrap(), third).unwrap();
        let nested = Grown::all(Grown::new(nested, fourth).unwrap(), [fifth]).unwrap();
        assert_eq!(listed.config(), nested.config());
        for id in TensorId::all(listed.config()) {
            assert_eq!(listed.lineage(id).to_string(), nested.lineage(id).to_string(), "{id:?}");
            assert_eq!(listed.dtype(id), nested.dtype(id), "{id:?}");
            if matches!(id, TensorId::Layer(3 | 18, _)) {
                assert_eq!(listed.read(id).unwrap(), nested.read(id).unwrap(), "{id:?}");
            }
        }
    }

    #[test]
    fn lineage_has_the_step_of_each_growth() {
        let grown = Grown::all(base(), [deeper(8, 2), wider(), deeper(12, 1)]).unwrap();
        let steps = |recipe: &Recipe| recipe.steps.iter().map(Step::to_string).collect::<Vec<_>>();
        let expert = grown.lineage(TensorId::Layer(18, LayerTensor::Expert(3, Projection::Up)));
        assert_eq!(expert.source, Some(TensorId::Layer(4, LayerTensor::Mlp(Projection::Up))));
        assert_eq!(steps(&expert), ["layer 4 of 8", "drop 168 dimensions", "layer 8 of 12"]);
        let router = grown.lineage(TensorId::Layer(18, LayerTensor::Router));
        assert_eq!(router.source, None);
        assert_eq!(steps(&router), ["router normal(0.02)", "layer 8 of 12"]);
        assert_eq!(grown.lineage(TensorId::Norm), Recipe::of(TensorId::Norm));
    }

    #[test]
    fn weights_of_equal_recipes_are_equal_and_drawn_ones_differ() {
        let grown = Grown::all(base(), [wider(), deeper(8, 2)]).unwrap();
        let up = |layer, expert| TensorId::Layer(layer, LayerTensor::Expert(expert, Projection::Up));
        assert_eq!(grown.recipe(up(4, 0)), grown.recipe(up(8, 0)), "copies of one layer");
        assert_eq!(grown.read(up(4, 0)).unwrap(), grown.read(up(8, 0)).unwrap());
        assert_ne!(grown.recipe(up(4, 0)), grown.recipe(up(4, 1)), "independent draws");
        let afterwards = Grown::all(base(), [deeper(8, 2), wider()]).unwrap();
        assert_ne!(afterwards.recipe(up(4, 0)), afterwards.recipe(up(8, 0)));
    }

    /// A source that counts how often each weight is streamed.
    struct Counting(MemoryWeights, Mutex<HashMap<TensorId, usize>>);

    impl WeightSource for Counting {
        fn config(&self) -> &DecoderConfig {
            self.0.config()
        }

        fn dtype(&self, id: TensorId) -> Dtype {
            self.0.dtype(id)
        }

        fn stream(&self, id: TensorId, sink: &mut Sink<'_>) -> Result<(), WeightError> {
            *self.1.lock().unwrap().entry(id).or_default() += 1;
            self.0.stream(id, sink)
        }
    }

    #[test]
    fn the_deviation_of_a_weight_is_measured_once_for_all_experts_with_noise() {
        let source = Counting(base(), Mutex::default());
        let init = ExpertInit::Noise { relative_std: 0.1 };
        let grown = Grown::new(&source, GrowthPlan::Upcycle(UpcyclePlan { init, ..UpcyclePlan::new(4, 2) })).unwrap();
        for expert in 0..4 {
            grown.read(TensorId::Layer(3, LayerTensor::Expert(expert, Projection::Down))).unwrap();
        }
        let streams = source.1.lock().unwrap();
        assert_eq!(
            streams[&TensorId::Layer(3, LayerTensor::Mlp(Projection::Down))],
            4 + 2,
            "one for the mean, one for the rest"
        );
    }

    #[test]
    fn a_cast_rounds_every_weight_and_says_so_once() {
        let (base, cast) = (base(), GrowthPlan::Cast { dtype: Dtype::Float32 });
        let twice = Grown::all(&base, [cast.clone(), cast]).unwrap();
        for id in TensorId::all(base.config()) {
            assert_eq!(twice.read(id).unwrap(), base.read(id).unwrap().cast(Dtype::Float32));
            assert_eq!(twice.lineage(id).steps, [Step::Cast { dtype: Dtype::Float32 }]);
        }
    }

    #[test]
    fn without_a_plan_the_result_is_the_source() {
        let (base, same) = (base(), Grown::all(base(), []).unwrap());
        assert_eq!((same.config(), same.plans().count()), (base.config(), 0));
        assert!(TensorId::all(base.config()).into_iter().all(|id| same.read(id).unwrap() == base.read(id).unwrap()));
        let error = Grown::merge(vec![&base, &base], []).unwrap_err();
        assert_eq!(error, PlanError::ModelCount { found: 2, expected: 1 });
    }
}
