//! The plan of a `mergekit-moe` config.

use super::error::{Difference, MergeError, MergeFault, MergeRule, MergeWarning};
use super::moe::{GateMode, MoeMergeConfig, same_prompts};
use crate::config::{DecoderConfig, MoeConfig};
use crate::error::InFile;
use crate::growth::{ExpertMerge, MergedExpert, MergedRouter, PlanError, RouterInit, RouterRows, UpcyclePlan};

/// What decides routers and noise beside the config.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MoeMergeOptions {
    /// Seed of every random number.
    pub seed: u64,
    /// Draw the routers of `gate_mode: random` from `N(0, 1)`, as mergekit does, instead of `N(0, 0.02)`: after the norm
    /// their logits have a standard deviation of about `√hidden_size`, so that each token has one expert.
    pub mergekit_compat: bool,
    /// The routers, for a mode that reads prompts.
    pub rows: Option<RouterRows>,
}

impl MoeMergeConfig {
    /// The plan for models of these configs, in the order of [`models`](Self::models).
    ///
    /// The result has the config of `base_model`, with rotary scaling and sliding window; mergekit drops the window.
    ///
    /// # Errors
    /// [`MergeRule::AlreadySparse`], [`MergeRule::ModelsDiffer`], [`MergeRule::NoRouterRows`], [`MergeRule::Plan`].
    ///
    /// # Panics
    /// If there are not as many configs as models.
    pub fn plan(&self, configs: &[&DecoderConfig], options: &MoeMergeOptions) -> Result<ExpertMerge, MergeError> {
        self.checked_plan(configs, options).map_err(InFile::at(&self.file))
    }

    fn checked_plan(&self, configs: &[&DecoderConfig], options: &MoeMergeOptions) -> Result<ExpertMerge, MergeFault> {
        assert_eq!(configs.len(), self.models().len(), "a config for each model");
        let name = |model: usize| self.models()[model].to_string();
        let base = configs[self.base_model];
        let experts = self.experts_at.iter().copied().zip(self.experts.iter().map(|expert| expert.model));
        for (at, model) in std::iter::once((self.at, self.base_model)).chain(experts) {
            if let Some(MoeConfig { num_local_experts, .. }) = configs[model].moe {
                return Err(MergeFault {
                    at,
                    rule: MergeRule::AlreadySparse { model: name(model), num_local_experts },
                });
            }
            let differences = differences(base, configs[model]);
            if !differences.is_empty() {
                let (first, other) = (name(self.base_model), name(model));
                return Err(MergeFault { at, rule: MergeRule::ModelsDiffer { first, other, differences } });
            }
        }
        let refused = |rule| MergeFault { at: self.at, rule };
        let plan_rule = |error: PlanError| refused(error.into());
        let config = UpcyclePlan::new(self.experts.len(), self.experts_per_token).config(base).map_err(plan_rule)?;
        let router = match (self.gate_mode, &options.rows) {
            (_, Some(rows)) => {
                rows.fit(&config).map_err(plan_rule)?;
                MergedRouter::Rows(rows.clone())
            }
            (GateMode::Random, None) if options.mergekit_compat => MergedRouter::Init(RouterInit::Normal { std: 1.0 }),
            (GateMode::Random, None) => MergedRouter::Init(RouterInit::default()),
            (GateMode::UniformRandom, None) => MergedRouter::Init(RouterInit::Uniform),
            (mode, None) => return Err(refused(MergeRule::NoRouterRows { gate_mode: mode.name() })),
        };
        let experts = self.experts.iter().map(|expert| MergedExpert {
            model: expert.model,
            noise_std: expert.noise_scale.unwrap_or(0.0),
            residual_scale: expert.residual_scale.unwrap_or(1.0),
        });
        Ok(ExpertMerge {
            config,
            models: self.models().iter().map(ToString::to_string).collect(),
            base_model: self.base_model,
            experts: experts.collect(),
            router,
            gate_mode: self.gate_mode.name(),
            dtype: self.dtype,
            seed: options.seed,
        })
    }

    /// What the config asks for that may not be meant.
    pub fn warnings(&self) -> Vec<MergeWarning> {
        let mut warnings = Vec::new();
        if self.experts.len() == 1 {
            warnings.push(MergeWarning::OneExpert);
        }
        let pairs = (0..self.experts.len()).flat_map(|second| (0..second).map(move |first| (first, second)));
        let same = |&(first, second): &(usize, usize)| same_prompts(&self.experts[first], &self.experts[second]);
        if let Some((first, second)) = pairs.filter(|_| self.gate_mode.reads_prompts()).find(same) {
            warnings.push(MergeWarning::SamePrompts { first, second });
        }
        warnings
    }
}

/// Fields of which an MLP depends that differ between the base and the model of an expert.
fn differences(base: &DecoderConfig, expert: &DecoderConfig) -> Vec<Difference> {
    let sizes = |config: &DecoderConfig| {
        [
            ("model_type", format!("{:?}", config.model_type).to_lowercase()),
            ("hidden_size", config.hidden_size.to_string()),
            ("intermediate_size", config.intermediate_size.to_string()),
            ("num_hidden_layers", config.num_hidden_layers.to_string()),
        ]
    };
    let pairs = sizes(base).into_iter().zip(sizes(expert)).filter(|(base, expert)| base != expert);
    pairs.map(|((field, first), (_, other))| Difference { field: field.to_owned(), first, other }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::MergeConfig;
    use super::*;
    use crate::config::RopeScaling;
    use crate::growth::{Grown, GrowthPlan};
    use crate::weights::{LayerTensor, MemoryWeights, Projection, Step, TensorId, WeightSource};

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

    fn merged(text: &str, options: &MoeMergeOptions) -> Result<Grown<MemoryWeights>, MergeError> {
        let MergeConfig::Moe(config) = MergeConfig::parse("a.yml", text.as_bytes())? else { panic!("{text}") };
        let sources: Vec<MemoryWeights> =
            config.models().iter().map(|reference| model(u64::from(reference.path == "chat"))).collect();
        let configs: Vec<&DecoderConfig> = sources.iter().map(WeightSource::config).collect();
        let plan = GrowthPlan::MergeExperts(config.plan(&configs, options)?);
        Ok(Grown::merge(sources, [plan]).unwrap())
    }

    fn std(values: &[f32]) -> f64 {
        let n = values.len() as f64;
        let mean = values.iter().map(|&w| f64::from(w)).sum::<f64>() / n;
        (values.iter().map(|&w| (f64::from(w) - mean).powi(2)).sum::<f64>() / n).sqrt()
    }

    fn routers(merge: &Grown<MemoryWeights>) -> Vec<f32> {
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
    fn modes_that_read_prompts_take_the_given_rows() {
        let text = TEXT
            .replace("random", "hidden")
            .replace("- source_model: base", "- source_model: base\n  positive_prompts: [a]");
        let text = text.replace("- source_model: chat", "- source_model: chat\n  positive_prompts: [b]");
        let error = merged(&text, &MoeMergeOptions::default()).unwrap_err();
        assert_eq!(error.fault.rule, MergeRule::NoRouterRows { gate_mode: "hidden" });
        let rows = RouterRows::new(vec![vec![0.25; 2 * 96]; 2]).unwrap();
        let options = MoeMergeOptions { rows: Some(rows), ..MoeMergeOptions::default() };
        assert_eq!(routers(&merged(&text, &options).unwrap()), [0.25; 4 * 96]);
        let rows = RouterRows::new(vec![vec![0.25; 2 * 96]]).unwrap();
        let options = MoeMergeOptions { rows: Some(rows), ..options };
        let message = "router rows are given for 1 layers, expected num_hidden_layers 2";
        assert!(merged(&text, &options).unwrap_err().to_string().ends_with(message));
    }

    #[test]
    fn rotary_scaling_reaches_the_result() {
        let merge = merged(TEXT, &MoeMergeOptions::default()).unwrap();
        assert_eq!(merge.config().rope_scaling, RopeScaling::Linear { factor: 2.0 });
    }

    #[test]
    fn lineage_names_the_model_and_the_steps() {
        let merge = merged(&format!("dtype: bfloat16\n{TEXT}"), &MoeMergeOptions::default()).unwrap();
        let steps = |id| merge.lineage(id).steps.iter().map(Step::to_string).collect::<Vec<_>>();
        let down = LayerTensor::Expert(1, Projection::Down);
        let expected = ["expert 1 of chat", "noise std 0.01", "scale 0.5", "cast bfloat16"];
        assert_eq!(steps(TensorId::Layer(1, down)), expected);
        assert_eq!(steps(TensorId::Norm), ["of base", "cast bfloat16"]);
        assert_eq!(steps(TensorId::Layer(0, LayerTensor::Router)), ["router normal(0.02)"]);
    }
}
