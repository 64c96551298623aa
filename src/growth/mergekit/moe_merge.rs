//! Several models merged into a mixture of experts, as one source.

use super::error::MergeError;
use super::moe::MoeMergeConfig;
use super::moe_plan::{MergedRouter, MoeMergeOptions, MoeMergePlan};
use crate::config::DecoderConfig;
use crate::growth::RouterRows;
use crate::growth::random_stream::{Purpose, RandomStream};
use crate::growth::recipe::Recipe;
use crate::growth::step::{Step, dtype_after, stream_through};
use crate::weights::{Change, Dtype, LayerTensor, Lineage, Projection, Sink, TensorId, WeightError, WeightSource};

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
        let values = RandomStream { seed: self.plan.seed, layer, purpose: Purpose::Values(place, projection) };
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
                let values = RandomStream { seed: self.plan.seed, layer, purpose: Purpose::Router };
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

    /// Ends with the model that the weight is from, as the config names it: `expert 2 of teknium/OpenHermes`.
    fn lineage(&self, id: TensorId) -> Lineage {
        if let TensorId::Layer(_, LayerTensor::Router) = id {
            let step = match &self.plan.router {
                MergedRouter::Rows(_) => RouterRows::CHANGE,
                MergedRouter::Init(init) => init.change(),
            };
            return Lineage { root: None, steps: vec![step] };
        }
        let (model, source_id, steps) = self.recipe(id);
        let mut lineage = self.sources[model].lineage(source_id);
        let model = self.merge.models()[model].to_string();
        lineage.steps.push(match id {
            TensorId::Layer(_, LayerTensor::Expert(expert, _)) => Change::ModelExpert { expert, model },
            _ => Change::Model { model },
        });
        lineage.steps.extend(steps.iter().map(Step::change));
        lineage
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Fault, MergeConfig};
    use super::*;
    use crate::config::RopeScaling;
    use crate::growth::RouterRows;
    use crate::weights::MemoryWeights;

    const TEXT: &str = "
base_model: base
gate_mode: random
experts_per_token: 1
experts:
- source_model: base
- source_model: chat
  noise_scale: 0.01
  residual_scale: 0.5
";

    fn model(seed: u64) -> MemoryWeights {
        let config = DecoderConfig::pico().with(|f| {
            f.rope_scaling = RopeScaling::Linear { factor: 2.0 };
            f.num_hidden_layers = 2;
        });
        MemoryWeights::untrained(config.unwrap(), 0.02, seed)
    }

    fn merged(text: &str, options: &MoeMergeOptions) -> Result<MoeMerge<MemoryWeights>, MergeError> {
        let MergeConfig::Moe(config) = MergeConfig::parse("a.yml", text.as_bytes())? else { panic!("{text}") };
        let sources = config.models().iter().map(|reference| model(u64::from(reference.path == "chat"))).collect();
        MoeMerge::new(&config, sources, options)
    }

    fn std(values: &[f32]) -> f64 {
        let n = values.len() as f64;
        let mean = values.iter().map(|&w| f64::from(w)).sum::<f64>() / n;
        (values.iter().map(|&w| (f64::from(w) - mean).powi(2)).sum::<f64>() / n).sqrt()
    }

    fn routers(merge: &MoeMerge<MemoryWeights>) -> Vec<f32> {
        (0..2).flat_map(|layer| merge.read(TensorId::Layer(layer, LayerTensor::Router)).unwrap().to_f32()).collect()
    }

    #[test]
    fn noise_is_added_to_every_matrix_of_its_expert_before_down_is_scaled() {
        let (merge, chat) = (merged(TEXT, &MoeMergeOptions::default()).unwrap(), model(1));
        for (projection, factor) in [(Projection::Gate, 1.0), (Projection::Up, 1.0), (Projection::Down, 0.5)] {
            let made = merge.read(TensorId::Layer(1, LayerTensor::Expert(1, projection))).unwrap().to_f32();
            let before = chat.read(TensorId::Layer(1, LayerTensor::Mlp(projection))).unwrap().to_f32();
            let noise: Vec<f32> = made.iter().zip(&before).map(|(m, b)| m / factor - b).collect();
            let error = std(&noise) - 0.01;
            assert!(error.abs() < 5.0 * 0.01 / (2.0 * noise.len() as f64).sqrt(), "{projection:?}: {error}");
        }
        let id = TensorId::Layer(1, LayerTensor::Expert(0, Projection::Down));
        let base = model(0).read(TensorId::Layer(1, LayerTensor::Mlp(Projection::Down))).unwrap();
        assert!(merge.read(id).unwrap() == base, "expert 0 is touched");
    }

    #[test]
    fn the_seed_decides_every_random_number() {
        let of = |seed| merged(TEXT, &MoeMergeOptions { seed, ..MoeMergeOptions::default() }).unwrap();
        let up = TensorId::Layer(0, LayerTensor::Expert(1, Projection::Up));
        assert!(of(1).read(up).unwrap() == of(1).read(up).unwrap());
        assert!(of(1).read(up).unwrap() != of(2).read(up).unwrap());
        assert!(routers(&of(1)) == routers(&of(1)));
        assert!(routers(&of(1)) != routers(&of(2)));
    }

    #[test]
    fn random_routers_start_small_unless_mergekit_is_to_be_followed() {
        let of = |mergekit_compat| merged(TEXT, &MoeMergeOptions { mergekit_compat, ..MoeMergeOptions::default() });
        for (mergekit_compat, expected) in [(false, 0.02), (true, 1.0)] {
            let values = routers(&of(mergekit_compat).unwrap());
            let error = std(&values) / expected - 1.0;
            assert!(error.abs() < 5.0 / (2.0 * values.len() as f64).sqrt(), "{error}");
        }
        let uniform = merged(&TEXT.replace("random", "uniform_random"), &MoeMergeOptions::default()).unwrap();
        let bound = 1.0 / 96f32.sqrt();
        let values = routers(&uniform);
        assert!(values.iter().all(|w| w.abs() <= bound) && values.iter().any(|w| w.abs() > 0.9 * bound));
    }

    #[test]
    fn modes_that_read_prompts_take_the_rows_that_are_given() {
        let text = TEXT
            .replace("random", "hidden")
            .replace("- source_model: base", "- source_model: base\n  positive_prompts: [a]");
        let text = text.replace("- source_model: chat", "- source_model: chat\n  positive_prompts: [b]");
        let error = merged(&text, &MoeMergeOptions::default()).unwrap_err();
        assert_eq!(error.fault, Fault::NoRouterRows { gate_mode: "hidden" });
        let rows = RouterRows::new(vec![vec![0.25; 2 * 96]; 2]).unwrap();
        let options = MoeMergeOptions { rows: Some(rows), ..MoeMergeOptions::default() };
        assert_eq!(routers(&merged(&text, &options).unwrap()), [0.25; 4 * 96]);
        let rows = RouterRows::new(vec![vec![0.25; 2 * 96]]).unwrap();
        let options = MoeMergeOptions { rows: Some(rows), ..options };
        let message = "router rows are given for 1 layers, expected num_hidden_layers 2";
        assert!(merged(&text, &options).unwrap_err().to_string().ends_with(message));
    }

    #[test]
    fn rotary_scaling_is_kept() {
        let merge = merged(TEXT, &MoeMergeOptions::default()).unwrap();
        assert_eq!(merge.config().rope_scaling, RopeScaling::Linear { factor: 2.0 });
    }

    #[test]
    fn lineage_names_the_model_and_what_was_done() {
        let merge = merged(&format!("dtype: bfloat16\n{TEXT}"), &MoeMergeOptions::default()).unwrap();
        let steps = |id| merge.lineage(id).steps.iter().map(Change::to_string).collect::<Vec<_>>();
        let down = LayerTensor::Expert(1, Projection::Down);
        let expected = ["expert 1 of chat", "noise std 0.01", "scale 0.5", "cast bfloat16"];
        assert_eq!(steps(TensorId::Layer(1, down)), expected);
        assert_eq!(steps(TensorId::Norm), ["of base", "cast bfloat16"]);
        assert_eq!(steps(TensorId::Layer(0, LayerTensor::Router)), ["router normal(0.02)"]);
    }
}
