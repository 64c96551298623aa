//! Running a plan: grow, score, train, score again, time.

use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;

use super::measure::{DECODE_BATCHES, cost, timings};
use super::{ArmPlan, StudyError, StudyPlan};
use crate::data::{WindowOrder, Windows};
use crate::eval::{expert_load, mean_loss_nats};
use crate::growth::{Grown, GrowthPlan};
use crate::model::AnyDecoder;
use crate::profile::flops::train_flops;
use crate::profile::heap::peak_bytes;
use crate::profile::memory::{kv_cache_bytes, weight_bytes};
use crate::report::{Arm, CurvePoint, EvalPoint, ExpertLoad, MemoryRecord, RouterSummary, SeedRun, StudySettings};
use crate::train::{
    AdamW, AdamWConfig, BatchSize, NextToken, NextTokenLog, RouterStats, Schedule, StepLog, TrainConfig, Trainer,
    WindowBatches,
};
use crate::weights::{Dtype, WeightSource};

/// The text of a study.
#[derive(Debug, Clone)]
pub struct StudyData {
    /// What every arm trains on, in the same order.
    pub train: Windows,
    /// What every arm is scored on.
    pub heldout: Windows,
    /// Names of the topics; one name for text without any.
    pub topics: Vec<String>,
}

/// What is happening, for somebody who watches.
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
    /// An update is done.
    Step(&'a StepLog<NextTokenLog>),
    /// The run has been scored, in nats.
    Scored(f64),
    /// An arm is being timed.
    Timing(&'a str),
}

/// How arms are trained and timed.
#[derive(Debug, Clone, PartialEq)]
pub struct RunOptions {
    /// Settings that go into the record: batch, learning rate, decay, seeds.
    pub settings: StudySettings,
    /// Windows per forward and backward pass; divides the batch size.
    pub micro_batch_size: usize,
    /// Scores along each training run, the last included.
    pub num_evals: usize,
    /// Type of the weights in timings and memory; training is in float32.
    pub dtype: Dtype,
    /// Tokens decoded per timing.
    pub decode_tokens: usize,
    /// Timed runs per workload.
    pub repetitions: usize,
}

/// Runs every arm of `plan` from `base`, once per seed, and measures it. Returns the arms, and the loss of the base.
///
/// # Errors
/// [`StudyError`], naming the arm that diverged or the weight that could not be read.
pub fn run<S: WeightSource>(
    base: &S,
    plan: &StudyPlan,
    data: &StudyData,
    options: &RunOptions,
    device: &Device,
    mut watch: impl FnMut(Progress<'_>),
) -> Result<(Vec<Arm>, f64), StudyError> {
    let base_loss = {
        let model = AnyDecoder::load(base, device)?;
        mean_loss_nats(&model, &data.heldout, options.micro_batch_size, device)
    };
    if !base_loss.is_finite() {
        return Err(StudyError::BrokenBase { loss: base_loss });
    }
    let study = Runner { base, data, options, device, base_loss };
    let arms = plan.arms.iter().map(|arm| study.arm(arm, &mut watch)).collect::<Result<Vec<_>, _>>()?;
    Ok((arms, base_loss))
}

struct Runner<'a, S> {
    base: &'a S,
    data: &'a StudyData,
    options: &'a RunOptions,
    device: &'a Device,
    base_loss: f64,
}

impl<S: WeightSource> Runner<'_, S> {
    fn arm(&self, plan: &ArmPlan, watch: &mut impl FnMut(Progress<'_>)) -> Result<Arm, StudyError> {
        let settings = &self.options.settings;
        let mut runs = Vec::new();
        let (mut train_peak_bytes, mut load) = (None, None);
        for &seed in &settings.seeds {
            let work = || self.seed_run(plan, seed, watch);
            let (result, peak) = peak_bytes(self.device, work);
            let (run, run_load) = result?;
            runs.push(run);
            train_peak_bytes = train_peak_bytes.max(peak);
            load = load.or(run_load);
        }
        watch(Progress::Timing(&plan.name));
        let model = load_grown(self.base, plan, settings.seeds[0], self.options.dtype, self.device)?;
        let RunOptions { decode_tokens, repetitions, .. } = *self.options;
        let time = || timings(&model, settings.seq_length, decode_tokens, repetitions, self.device);
        let (timings, working) = peak_bytes(self.device, time);
        let positions = (settings.seq_length + self.options.decode_tokens) as u64;
        let weight_bytes = weight_bytes(&plan.config, self.options.dtype.size_bytes() as u64) as u64;
        let largest_batch = DECODE_BATCHES.into_iter().max().unwrap_or(1) as u64;
        Ok(Arm {
            name: plan.name.clone(),
            kind: plan.kind,
            growth: growth_in_words(plan),
            config: plan.config.clone(),
            cost: cost(&plan.config, settings.seq_length, self.options.dtype),
            runs,
            memory: MemoryRecord {
                inference_peak_bytes: working.map(|working| weight_bytes + working),
                train_peak_bytes,
                weight_bytes,
                kv_cache_bytes: kv_cache_bytes(&plan.config, largest_batch, positions, 4) as u64,
            },
            timings,
            expert_load: load,
        })
    }

    /// Grows, scores, trains and scores one arm; the load of its experts at the end.
    fn seed_run(
        &self,
        plan: &ArmPlan,
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
        let mut trainer = Trainer::new(model, NextToken, optimizer, train_config(settings, plan.num_steps));
        let update_flops = train_flops(&plan.config, settings.batch_size as u64, settings.seq_length as u64) as u64;
        let update_tokens = (settings.batch_size * settings.seq_length) as u64;
        let spent = |step: usize| (step as u64 * update_tokens, step as u64 * update_flops);
        let (mut curve, mut evals, mut routers) = (Vec::new(), Vec::new(), Vec::new());
        for step in 1..=plan.num_steps {
            let log = trainer.step(&batches.of_step(step - 1));
            watch(Progress::Step(&log));
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
    plan: &ArmPlan,
    seed: u64,
    dtype: Dtype,
    device: &Device,
) -> Result<AnyDecoder, StudyError> {
    let growth = plan.growth.clone().map(|plan| plan.with_seed(seed));
    Ok(AnyDecoder::load_as(&Grown::all(base, growth)?, dtype, device)?)
}

fn train_config(settings: &StudySettings, num_steps: usize) -> TrainConfig {
    let warmup_steps = (settings.warmup_fraction * num_steps as f64).ceil() as usize;
    let schedule = Schedule { peak: settings.learning_rate, warmup_steps, num_steps, final_fraction: 0.1 };
    TrainConfig { schedule, max_grad_norm: 1.0 }
}

/// Whether the run is scored after `step`: `num_evals` times, evenly, and in any case after the last.
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

fn growth_in_words(plan: &ArmPlan) -> String {
    match &plan.growth {
        None => "none: the base, trained further".to_owned(),
        Some(GrowthPlan::Splice(layers)) => format!("layers {layers}"),
        Some(GrowthPlan::Upcycle(upcycle)) => {
            format!(
                "{} copies of every MLP, top-{}, router {}",
                upcycle.num_local_experts, upcycle.num_experts_per_tok, upcycle.router
            )
        }
        Some(other) => other.to_string(),
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
