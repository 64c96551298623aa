//! Running a plan: each arm is grown, scored and trained with each seed; then all arms are timed in turns.

use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;

use super::data::StudyData;
use super::error::StudyError;
use super::measure::{DECODE_BATCHES, cost, time_once, timings};
use super::plan::{ArmSpec, StudyPlan};
use super::unit::{UnitId, UnitRecord, Units};
use crate::data::WindowOrder;
use crate::eval::{expert_load, mean_loss_nats};
use crate::growth::{Grown, GrowthPlan};
use crate::kernel::linear::keeps_bfloat16;
use crate::model::AnyDecoder;
use crate::profile::device_memory;
use crate::profile::flops::train_flops;
use crate::profile::heap;
use crate::profile::memory::{cached_number_bytes, kv_cache_bytes, weight_bytes};
use crate::profile::other_load::OtherLoad;
use crate::report::{
    Arm, CurvePoint, EvalPoint, ExpertLoad, MemoryRecord, RouterSummary, SeedRun, StudySettings, Timing, TimingRound,
};
use crate::train::{
    AdamW, AdamWConfig, BatchSize, Decay, NextToken, NextTokenLog, RouterStats, Schedule, StepLog, TrainConfig,
    Trainer, WindowBatches,
};
use crate::weights::{Dtype, WeightSource};

/// The progress of a study, for a display.
#[derive(Debug, Clone, Copy)]
pub enum Progress<'a> {
    /// A training run begins.
    Run {
        /// The arm's name.
        arm: &'a str,
        /// The run's seed.
        seed: u64,
        /// Updates to come.
        num_steps: usize,
        /// Held-out loss right after growth, in nats.
        loss_nats: f64,
    },
    /// An update is finished.
    Step(&'a StepLog<NextTokenLog>),
    /// The held-out loss of the run, in nats.
    Scored(f64),
    /// The run was finished before the study was interrupted, and is not repeated.
    Resumed {
        /// The arm's name.
        arm: &'a str,
        /// The run's seed.
        seed: u64,
    },
    /// A round of timings begins.
    Timing {
        /// Number of the round, from 1.
        round: usize,
        /// Number of rounds.
        num_rounds: usize,
    },
}

/// How arms are trained and timed.
#[derive(Debug, Clone, PartialEq)]
pub struct RunOptions {
    /// Settings that go into the record, with the size of the micro batches below: batch, learning rate, decay, seeds.
    pub settings: StudySettings,
    /// Windows per forward and backward pass; divides the batch size.
    pub micro_batch_size: usize,
    /// Scores along each training run, the last included.
    pub num_evals: usize,
    /// Type of the weights in timings and memory; training is in float32.
    pub dtype: Dtype,
    /// Tokens decoded per timing.
    pub decode_tokens: usize,
    /// Rounds of timings: every round times every arm once.
    pub num_rounds: usize,
    /// Identifies other inputs that results depend on: the build, and the weights of the base.
    pub identity: String,
}

/// The results of a study.
#[derive(Debug)]
pub struct Outcome {
    /// The arms, in the order of the plan.
    pub arms: Vec<Arm>,
    /// The rounds of the timings.
    pub rounds: Vec<TimingRound>,
    /// Held-out loss of the base, nats per token.
    pub base_loss_nats: f64,
}

/// Runs every arm of `plan` from `base` once per seed, and times all arms in turns. Runs that `units` already holds are not
/// repeated; new ones are recorded there as they finish. The caller removes them when it has written the results.
///
/// # Errors
/// [`StudyError::OtherRuns`] before any work; [`StudyError::BrokenBase`], [`StudyError::Diverged`]; errors of reading
/// weights and writing records.
pub fn run<S: WeightSource>(
    base: &S,
    plan: &StudyPlan,
    data: &StudyData,
    options: &RunOptions,
    units: &Units,
    device: &Device,
    mut watch: impl FnMut(Progress<'_>),
) -> Result<Outcome, StudyError> {
    let ids = unit_ids(plan, data, options, device);
    units.claim(ids.iter().map(|(_, id)| id))?;
    let study = Runner::new(base, data, options, device)?;
    let mut records = Vec::new();
    for (spec, id) in ids {
        records.push(match units.find(&id) {
            Some(record) => {
                watch(Progress::Resumed { arm: &spec.name, seed: id.seed });
                record
            }
            None => {
                let record = study.run_one(spec, id, &mut watch)?;
                units.save(&record)?;
                record
            }
        });
    }
    let (timed, rounds) = study.time(&plan.arms, &mut watch)?;
    let cached = cached_number_bytes(options.dtype, keeps_bfloat16(device));
    let arms = merge(&plan.arms, &records, timed, options, cached);
    Ok(Outcome { arms, rounds, base_loss_nats: study.base_loss })
}

/// The runs of a study. The key of each is a hash of everything that its result depends on.
pub(super) fn unit_ids<'p>(
    plan: &'p StudyPlan,
    data: &StudyData,
    options: &RunOptions,
    device: &Device,
) -> Vec<(&'p ArmSpec, UnitId)> {
    let RunOptions { settings, micro_batch_size, num_evals, identity, .. } = options;
    // Neither other seeds nor the rule of matching changes a run.
    let alone = StudySettings { seeds: Vec::new(), match_rule: String::new(), ..settings.clone() };
    let data_hash = data.blake3();
    let id = |(spec, seed): (&'p ArmSpec, u64)| {
        let parts =
            format!("{identity} {data_hash} {device:?} {alone:?} {micro_batch_size} {num_evals} {spec:?} {seed}");
        (spec, UnitId { arm: spec.name.clone(), seed, key: blake3::hash(parts.as_bytes()).to_hex().to_string() })
    };
    plan.arms.iter().flat_map(|spec| settings.seeds.iter().map(move |&seed| (spec, seed))).map(id).collect()
}

/// Timings of an arm, and the peak of memory above its weights meanwhile.
type Timed = (Vec<Timing>, Option<u64>);

/// Joins the runs and the timings of every arm.
fn merge(specs: &[ArmSpec], records: &[UnitRecord], timed: Vec<Timed>, options: &RunOptions, cached: u64) -> Vec<Arm> {
    let (seq_length, dtype) = (options.settings.seq_length, options.dtype);
    let positions = (seq_length + options.decode_tokens) as u64;
    let largest_batch = DECODE_BATCHES.into_iter().max().unwrap_or(1) as u64;
    let arm = |(spec, (timings, working)): (&ArmSpec, Timed)| {
        let units: Vec<&UnitRecord> = records.iter().filter(|record| record.arm == spec.name).collect();
        let weight_bytes = weight_bytes(&spec.config, dtype.size_bytes() as u64) as u64;
        Arm {
            name: spec.name.clone(),
            kind: spec.kind,
            growth: growth_in_words(spec),
            config: spec.config.clone(),
            cost: cost(&spec.config, seq_length, dtype, cached),
            runs: units.iter().map(|unit| unit.run.clone()).collect(),
            memory: MemoryRecord {
                inference_peak_bytes: working.map(|working| weight_bytes + working),
                train_peak_bytes: units.iter().filter_map(|unit| unit.train_peak_bytes).max(),
                weight_bytes,
                kv_cache_bytes: kv_cache_bytes(&spec.config, largest_batch, positions, cached) as u64,
            },
            timings,
            expert_load: units.iter().find_map(|unit| unit.expert_load.clone()),
        }
    };
    specs.iter().zip(timed).map(arm).collect()
}

struct Runner<'a, S> {
    base: &'a S,
    data: &'a StudyData,
    options: &'a RunOptions,
    device: &'a Device,
    base_loss: f64,
}

impl<'a, S: WeightSource> Runner<'a, S> {
    fn new(base: &'a S, data: &'a StudyData, options: &'a RunOptions, device: &'a Device) -> Result<Self, StudyError> {
        let model = AnyDecoder::load(base, device)?;
        let base_loss = mean_loss_nats(&model, &data.heldout, options.micro_batch_size, device);
        if !base_loss.is_finite() {
            return Err(StudyError::BrokenBase { loss: base_loss });
        }
        Ok(Self { base, data, options, device, base_loss })
    }

    /// Runs one unit: an arm with a seed.
    fn run_one(
        &self,
        spec: &ArmSpec,
        id: UnitId,
        watch: &mut impl FnMut(Progress<'_>),
    ) -> Result<UnitRecord, StudyError> {
        let (result, train_peak_bytes) = device_memory::peak_bytes(self.device, || self.seed_run(spec, id.seed, watch));
        let (run, expert_load) = result?;
        Ok(UnitRecord { key: id.key, arm: id.arm, run, train_peak_bytes, expert_load })
    }

    /// Times all arms round by round, each freshly grown, so that one model is in memory at a time. The first arm changes
    /// from round to round.
    fn time(
        &self,
        specs: &[ArmSpec],
        watch: &mut impl FnMut(Progress<'_>),
    ) -> Result<(Vec<Timed>, Vec<TimingRound>), StudyError> {
        let RunOptions { settings, decode_tokens, num_rounds, dtype, .. } = self.options;
        let empty = |spec: &ArmSpec| (timings(&spec.config, settings.seq_length, *decode_tokens), None);
        let mut timed: Vec<Timed> = specs.iter().map(empty).collect();
        let mut rounds = Vec::new();
        for round in 0..*num_rounds {
            watch(Progress::Timing { round: round + 1, num_rounds: *num_rounds });
            let load = OtherLoad::start();
            for turn in 0..specs.len() {
                let index = (round + turn) % specs.len();
                let model = load_grown(self.base, &specs[index], settings.seeds[0], *dtype, self.device)?;
                let (timings, working) = &mut timed[index];
                let ((), peak) = heap::peak_bytes(self.device, || time_once(&model, timings, self.device));
                *working = (*working).max(peak);
            }
            rounds.push(TimingRound { other_load_cpus: load.cpus() });
        }
        Ok((timed, rounds))
    }

    /// Grows, scores and trains one arm. Also returns the load of its experts at the end.
    fn seed_run(
        &self,
        plan: &ArmSpec,
        seed: u64,
        watch: &mut impl FnMut(Progress<'_>),
    ) -> Result<(SeedRun, Option<ExpertLoad>), StudyError> {
        let start = Instant::now();
        let (settings, data) = (&self.options.settings, self.data);
        let autodiff = self.device.clone().autodiff();
        let model = load_grown(self.base, plan, seed, Dtype::Float32, &autodiff)?;
        let score = |model: &AnyDecoder| {
            mean_loss_nats(&model.valid(), &data.heldout, self.options.micro_batch_size, self.device)
        };
        let loss_after_growth_nats = score(&model);
        watch(Progress::Run { arm: &plan.name, seed, num_steps: plan.num_steps, loss_nats: loss_after_growth_nats });
        let order = WindowOrder::new(data.train.len(), seed);
        let size = BatchSize { batch_size: settings.batch_size, micro_batch_size: self.options.micro_batch_size };
        let batches = WindowBatches::new(&data.train, order, size, &plan.config, &autodiff)?;
        let optimizer = AdamW::new(AdamWConfig { weight_decay: settings.weight_decay, ..AdamWConfig::default() });
        let mut trainer = Trainer::new(model, NextToken::default(), optimizer, train_config(settings, plan.num_steps));
        let update_flops = train_flops(&plan.config, settings.batch_size as u64, settings.seq_length as u64) as u64;
        let update_tokens = (settings.batch_size * settings.seq_length) as u64;
        let spent = |step: usize| (step as u64 * update_tokens, step as u64 * update_flops);
        let (mut curve, mut evals, mut routers) = (Vec::new(), Vec::new(), Vec::new());
        for step in 1..=plan.num_steps {
            let log = trainer.step(&batches.of_step(step - 1));
            let diverged = |what, value| StudyError::Diverged { arm: plan.name.clone(), step, what, value };
            let NextTokenLog { loss_nats: train_loss_nats, aux_loss, .. } = log.log;
            if !train_loss_nats.is_finite() {
                return Err(diverged("loss", train_loss_nats));
            }
            if !log.grad_norm.is_finite() {
                return Err(diverged("norm of the gradient", log.grad_norm));
            }
            let (tokens, train_flops) = spent(step);
            if is_eval(step, plan.num_steps, self.options.num_evals) {
                let heldout_loss_nats = score(trainer.model());
                if !heldout_loss_nats.is_finite() {
                    return Err(diverged("held-out loss", heldout_loss_nats));
                }
                watch(Progress::Scored(heldout_loss_nats));
                evals.push(EvalPoint { step, tokens, train_flops, heldout_loss_nats });
            }
            watch(Progress::Step(&log));
            curve.push(CurvePoint {
                step,
                tokens,
                train_flops,
                train_loss_nats,
                learning_rate: log.learning_rate,
                grad_norm: log.grad_norm,
                aux_loss,
                tokens_per_second: update_tokens as f64 / log.wall_s,
            });
            routers = log.log.routers;
        }
        let model = trainer.into_model().valid();
        let share = expert_load(&model, &data.heldout, data.topics.len(), self.options.micro_batch_size, self.device);
        let load = (!share.is_empty()).then(|| ExpertLoad { topics: data.topics.clone(), share });
        let run = SeedRun {
            seed,
            loss_before_growth_nats: self.base_loss,
            loss_after_growth_nats,
            curve,
            evals,
            wall_s: start.elapsed().as_secs_f64(),
            router: (!routers.is_empty()).then(|| router_summary(&routers)),
        };
        Ok((run, load))
    }
}

fn load_grown<S: WeightSource>(
    base: &S,
    plan: &ArmSpec,
    seed: u64,
    dtype: Dtype,
    device: &Device,
) -> Result<AnyDecoder, StudyError> {
    let growth = plan.growth.iter().map(|plan| plan.clone().with_seed(seed));
    Ok(AnyDecoder::load_as(&Grown::all(base, growth)?, dtype, device)?)
}

fn train_config(settings: &StudySettings, num_steps: usize) -> TrainConfig {
    let warmup_steps = (settings.warmup_fraction * num_steps as f64).ceil() as usize;
    let schedule =
        Schedule { peak: settings.learning_rate, warmup_steps, num_steps, final_fraction: 0.1, decay: Decay::Cosine };
    TrainConfig { schedule, max_grad_norm: 1.0 }
}

/// Whether the run is scored after `step`: `num_evals` times, evenly spaced, always after the last step.
fn is_eval(step: usize, num_steps: usize, num_evals: usize) -> bool {
    let due = |step: usize| step * num_evals / num_steps;
    due(step) > due(step - 1)
}

fn router_summary(routers: &[RouterStats]) -> RouterSummary {
    RouterSummary {
        load_cv: routers.iter().map(RouterStats::load_cv).collect(),
        entropy_nats: routers.iter().map(RouterStats::entropy_nats).collect(),
        dead_experts: routers.iter().map(RouterStats::dead_experts).collect(),
    }
}

/// The growth of an arm in one line.
fn growth_in_words(spec: &ArmSpec) -> String {
    let words = |plan: &GrowthPlan| match plan {
        GrowthPlan::Splice(layers) => format!("layers {layers}"),
        GrowthPlan::Upcycle(upcycle) => {
            format!(
                "{} copies of every MLP, top-{}, router {}",
                upcycle.num_local_experts, upcycle.num_experts_per_tok, upcycle.router
            )
        }
        other => other.to_string(),
    };
    match &spec.growth[..] {
        [] => "none: the base, trained further".to_owned(),
        plans => plans.iter().map(words).collect::<Vec<_>>().join(", then "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_scored_evenly_and_after_its_last_step() {
        for (num_steps, num_evals) in [(100, 10), (7, 3), (5, 8), (1, 1)] {
            let scored: Vec<usize> = (1..=num_steps).filter(|&step| is_eval(step, num_steps, num_evals)).collect();
            assert_eq!(scored.len(), num_evals.min(num_steps));
            assert_eq!(scored.last(), Some(&num_steps));
        }
    }
}
