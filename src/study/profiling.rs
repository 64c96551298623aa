//! A base, its deep partner and its mixture, profiled side by side on one device, with random weights.

use std::path::Path;

use burn::tensor::Device;

use super::StudyError;
use super::figures::{RECORD, write_figures};
use crate::config::{DecoderConfig, MoeConfig};
use crate::figure::draw_profile;
use crate::growth::{Grown, GrowthPlan, LayerPlan, UpcyclePlan};
use crate::kernel::linear::keeps_bfloat16;
use crate::load::Precision;
use crate::model::{AnyDecoder, CausalLm};
use crate::output::commit::write_file_atomically;
use crate::profile::convention::FlopConvention;
use crate::profile::energy::EnergyCounter;
use crate::profile::flops::count_parameters;
use crate::profile::matching::{Context, iso_flop_overlap};
use crate::profile::memory_timeline::{MemoryMoment, MemoryTimeline};
use crate::profile::other_load::OtherLoad;
use crate::profile::peak::Peaks;
use crate::profile::throughput::{InferenceRuns, InferenceTest};
use crate::profile::{BytesPerNumber, Counting, ModuleProfile, ProfileTest, module_costs};
use crate::report::{
    ArmKind, MemoryCurve, MemoryPoint, ModulePoint, ModuleTable, ProfileStudy, ProfiledModel, RecordError, RunInfo,
    SpeedPoint,
};
use crate::train::ParamNames;
use crate::weights::{Dtype, MemoryWeights};

/// Standard deviation of random weights.
const STD: f32 = 0.02;

/// What is profiled.
#[derive(Debug, Clone, PartialEq)]
pub struct ProfilePlan {
    /// The dense base.
    pub base: DecoderConfig,
    /// The experts of its mixture.
    pub moe: MoeConfig,
    /// Type of the matrices in inference; training is in float32.
    pub dtype: Dtype,
    /// Tokens of the prompts.
    pub prompts: Vec<usize>,
    /// Tokens in the cache of a single sequence that is decoded.
    pub contexts: Vec<usize>,
    /// Sequences that are decoded at once, at [`context`](Self::context).
    pub batches: Vec<usize>,
    /// Tokens of the prompt by module, and in the cache of a batch.
    pub context: usize,
    /// Tokens decoded in a repetition.
    pub n_gen: usize,
    /// Sequences and tokens of a training step; memory of training is not measured without.
    pub training: Option<[usize; 2]>,
    /// Timed repetitions, taken in turns.
    pub rounds: usize,
}

/// One of the three models: its name, kind, and weights.
type Child<'a> = (String, ArmKind, Grown<&'a MemoryWeights>);

impl ProfilePlan {
    /// A base of 47 million parameters in SmolLM2's proportions, with a mixture of 8 experts of which two are visited.
    pub fn small() -> Self {
        let base = DecoderConfig::smollm2_135m().with(|f| {
            f.num_hidden_layers = 12;
            f.vocab_size = 8192;
        });
        Self {
            base: base.expect("a smaller SmolLM2"),
            moe: MoeConfig { num_local_experts: 8, num_experts_per_tok: 2, router_aux_loss_coef: 0.02 },
            dtype: Dtype::Float32,
            prompts: vec![64, 128, 256, 512],
            contexts: vec![64, 256, 1024],
            batches: vec![1, 2, 4, 8, 16],
            context: 256,
            n_gen: 8,
            training: Some([2, 128]),
            rounds: 5,
        }
    }

    /// Measures the base, the deep partner of the mixture's FLOPs, and the mixture. `watch` is told what is measured.
    ///
    /// # Errors
    /// [`StudyError`], if a model cannot be grown, loaded or trained.
    pub fn run(&self, run: RunInfo, device: &Device, watch: &dyn Fn(&str)) -> Result<ProfileStudy, StudyError> {
        let (load, counter) = (OtherLoad::start(), EnergyCounter::of(device));
        let energy = counter.as_ref().and_then(EnergyCounter::start);
        watch("peaks");
        let before = Peaks::measure(self.dtype, device);
        let weights = MemoryWeights::untrained(self.base.clone(), STD, 1);
        let children = self.children(&weights)?;
        let mut models = Vec::new();
        let mut loaded = Vec::new();
        for (name, kind, source) in &children {
            watch(&format!("{name}: by module"));
            let model = AnyDecoder::load_as(source, Precision::Float(self.dtype), device)?;
            models.push(self.profiled(name, *kind, &model, device));
            loaded.push(model);
        }
        for round in 1..=self.rounds {
            for (model, profiled) in loaded.iter().zip(&mut models) {
                watch(&format!("{}: round {round} of {}", profiled.name, self.rounds));
                for point in &mut profiled.speeds {
                    let mut runs = InferenceRuns::new(model, self.test(point), device);
                    runs.run();
                    point.samples_s.push(runs.run().total_ns as f64 / 1e9);
                }
            }
        }
        drop(loaded);
        for ((name, _, source), profiled) in children.iter().zip(&mut models) {
            if let Some([batch_size, seq_length]) = self.training {
                watch(&format!("{name}: memory of training"));
                let device = device.clone().autodiff();
                let model = AnyDecoder::load(source, &device)?;
                let sizes = [model.footprint().unshared_bytes(), ParamNames::of(&model).num_trained_elements];
                let (timeline, _) = MemoryTimeline::of_training(model, sizes, [batch_size, seq_length], &device)?;
                profiled
                    .memory
                    .extend(timeline.map(|timeline| curve(format!("train{batch_size}x{seq_length}"), &timeline)));
            }
        }
        let (energy_j, other_cpus) = (energy.and_then(|meter| meter.joules()), load.cpus());
        let peaks = before.max(Peaks::measure(self.dtype, device));
        let (peak_flops_per_s, peak_dtype) = peaks.of_products(self.dtype);
        Ok(ProfileStudy {
            run,
            peak_flops_per_s,
            peak_dtype: peak_dtype.to_string(),
            peak_bytes_per_s: peaks.bytes_per_s,
            other_cpus,
            energy_j,
            models,
        })
    }

    fn children<'a>(&self, base: &'a MemoryWeights) -> Result<Vec<Child<'a>>, StudyError> {
        let partner = iso_flop_overlap(&self.base, self.moe, Context::CausalMean(self.context as u64))?;
        let layers = LayerPlan::depth_up_scaling(self.base.num_hidden_layers, partner.overlap)?;
        let upcycle = UpcyclePlan::new(self.moe.num_local_experts, self.moe.num_experts_per_tok);
        let (experts, chosen) = (self.moe.num_local_experts, self.moe.num_experts_per_tok);
        Ok(vec![
            (format!("dense, {} layers", self.base.num_hidden_layers), ArmKind::Dense, Grown::all(base, [])?),
            (
                format!("deep, {} layers", partner.num_hidden_layers),
                ArmKind::Deep,
                Grown::new(base, GrowthPlan::Splice(layers))?,
            ),
            (
                format!("wide, {experts} experts, top {chosen}"),
                ArmKind::Wide,
                Grown::new(base, GrowthPlan::Upcycle(upcycle))?,
            ),
        ])
    }

    /// A model by module, with the tests whose speed is yet to be measured.
    fn profiled(&self, name: &str, kind: ArmKind, model: &AnyDecoder, device: &Device) -> ProfiledModel {
        // Layers of the deep model share memory until they are trained, which those read from a file do not.
        let (config, weight_bytes) = (model.config(), model.footprint().unshared_bytes());
        let parameters = count_parameters(config);
        let prompt = InferenceTest { n_prompt: self.context, n_gen: 0, n_depth: 0, batch_size: 1 };
        let decoding = InferenceTest { n_prompt: 0, n_gen: self.n_gen, n_depth: self.context, batch_size: 1 };
        let tables = [prompt, decoding].map(|test| {
            let profile = ModuleProfile::measured(model, test, self.counting(device), self.rounds, device);
            let module = |row: crate::profile::ModuleRow| ModulePoint {
                time_s: row.time_s.unwrap_or_default(),
                path: row.path,
                flops: row.flops,
                bytes: row.bytes,
            };
            ModuleTable {
                test: test_name(test),
                timing: profile.timing,
                run_time_s: profile.run_time_s,
                modules: profile.modules.into_iter().map(module).collect(),
            }
        });
        let memory = MemoryTimeline::of_inference(model, weight_bytes, prompt, device);
        ProfiledModel {
            name: name.to_owned(),
            kind,
            total_parameters: parameters.total,
            active_parameters: parameters.active,
            weight_bytes,
            by_module: tables.into(),
            speeds: self.points(config, device),
            memory: memory.into_iter().map(|timeline| curve(test_name(prompt), &timeline)).collect(),
        }
    }

    fn counting(&self, device: &Device) -> Counting {
        let bytes_per_number =
            BytesPerNumber::float(self.dtype.size_bytes() as u64).with_products_in(self.dtype, keeps_bfloat16(device));
        Counting { convention: FlopConvention::Causal, flops_per_mac: 2, bytes_per_number }
    }

    /// The tests of speed, without samples.
    fn points(&self, config: &DecoderConfig, device: &Device) -> Vec<SpeedPoint> {
        let prompts = self.prompts.iter().map(|context| (true, 1, *context));
        let contexts = self.contexts.iter().map(|context| (false, 1, *context));
        let batches = self.batches.iter().map(|batch| (false, *batch, self.context));
        let mut tests: Vec<(bool, usize, usize)> = Vec::new();
        for test in prompts.chain(contexts).chain(batches) {
            if !tests.contains(&test) {
                tests.push(test);
            }
        }
        let point = |(is_prefill, batch, context)| {
            let empty =
                SpeedPoint { is_prefill, batch, context, tokens: 0, flops: 0.0, bytes: 0.0, samples_s: Vec::new() };
            let test = ProfileTest::Inference(self.test(&empty));
            let counting = self.counting(device);
            let costs = module_costs(config, test, counting.bytes_per_number, counting.convention);
            SpeedPoint {
                tokens: test.num_tokens(),
                flops: costs.iter().map(|cost| cost.flops as f64).sum(),
                bytes: costs.iter().map(|cost| cost.bytes).sum(),
                ..empty
            }
        };
        tests.into_iter().map(point).collect()
    }

    fn test(&self, point: &SpeedPoint) -> InferenceTest {
        match point.is_prefill {
            true => InferenceTest { n_prompt: point.context, n_gen: 0, n_depth: 0, batch_size: point.batch },
            false => InferenceTest { n_prompt: 0, n_gen: self.n_gen, n_depth: point.context, batch_size: point.batch },
        }
    }
}

/// Writes `results.json` and every figure for which there are measurements to a folder, the record last.
///
/// # Errors
/// [`StudyError`], if a figure cannot be drawn or a file not be written.
pub fn write_profile(study: &ProfileStudy, folder: &Path) -> Result<(), StudyError> {
    write_figures(&draw_profile(study)?, folder)?;
    let json = serde_json::to_string_pretty(study).map_err(RecordError::Malformed)?;
    Ok(write_file_atomically(&folder.join(RECORD), (json + "\n").as_bytes())?)
}

fn test_name(test: InferenceTest) -> String {
    match test.n_prompt {
        0 => format!("tg{} @ d{}", test.n_gen, test.n_depth),
        prompt => format!("pp{prompt}"),
    }
}

/// At most this many moments of a timeline are recorded.
const MOST_POINTS: usize = 240;

fn curve(test: String, timeline: &MemoryTimeline) -> MemoryCurve {
    let point = |moment: &MemoryMoment| MemoryPoint {
        at_ns: (1e9 * moment.at_s) as u64,
        weights: moment.weights,
        cache: moment.cache,
        optimizer: moment.optimizer,
        gradients: moment.gradients,
        activations: moment.activations,
    };
    // Of each group of moments the highest, so that no peak is lost.
    let group = timeline.moments.len().div_ceil(MOST_POINTS).max(1);
    let highest = |moments: &[MemoryMoment]| moments.iter().max_by_key(|moment| moment.total()).map(point);
    MemoryCurve { test, points: timeline.moments.chunks(group).filter_map(highest).collect() }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use super::*;
    use crate::profile::Timing;

    #[test]
    fn a_small_profile_has_three_models_with_every_test() {
        let base = DecoderConfig::pico().with(|f| f.num_hidden_layers = 4).unwrap();
        let plan = ProfilePlan {
            base,
            moe: MoeConfig { num_local_experts: 4, num_experts_per_tok: 2, router_aux_loss_coef: 0.0 },
            prompts: vec![4, 8],
            contexts: vec![8],
            batches: vec![1, 2],
            context: 8,
            n_gen: 2,
            training: Some([1, 8]),
            rounds: 2,
            ..ProfilePlan::small()
        };
        let run = RunInfo::now(Vec::new(), "flex", "float32");
        let study = plan.run(run, &Device::flex(), &|_| ()).unwrap();
        assert_eq!(
            study.models.iter().map(|model| model.kind).collect::<Vec<_>>(),
            [ArmKind::Dense, ArmKind::Deep, ArmKind::Wide]
        );
        for model in &study.models {
            assert_eq!(model.speeds.len(), 4);
            assert!(model.speeds.iter().all(|point| point.samples_s.len() == 2 && point.tokens_per_s() > 0.0));
            assert_eq!(model.by_module.len(), 2);
            assert!(model.by_module.iter().all(|table| table.timing == Some(Timing::HostClock)));
            assert_eq!(model.weight_bytes, 4 * model.total_parameters);
        }
        let folder = tempfile::tempdir().unwrap();
        write_profile(&study, folder.path()).unwrap();
        let text = std::fs::read(folder.path().join("results.json")).unwrap();
        assert_eq!(serde_json::from_slice::<ProfileStudy>(&text).unwrap().models, study.models);
        assert!(folder.path().join("roofline.png").exists());
    }
}
