//! The records of a study: plain data with every raw sample, and units in the names.

use serde::{Deserialize, Serialize};

use super::statistics::{Estimate, mean, median, quantile};
use crate::config::DecoderConfig;

/// The build, the machine and the command line of a measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// Version of this crate.
    pub version: String,
    /// Commit of the source, if known.
    pub commit: Option<String>,
    /// BLAKE3 of the program; `None` in older records, and in those of profiles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
    /// Start of the study, RFC 3339 in UTC.
    pub date: String,
    /// The command line, word by word.
    pub command: Vec<String>,
    /// Backend and device, as `--device` takes it.
    pub device: String,
    /// Model name of the processor.
    pub cpu: String,
    /// Threads of the backend.
    pub num_threads: usize,
    /// Type of the weights in timings.
    pub dtype: String,
    /// Version of Burn.
    pub burn_version: String,
    /// Operating system and architecture.
    pub os: String,
}

/// One comparison: arms grown from one base and trained on the same data under one matching rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Study {
    /// Build, machine and command line.
    pub run: RunInfo,
    /// The base of every arm.
    pub base: BaseInfo,
    /// The text of every arm.
    pub data: DataInfo,
    /// The training settings of every arm.
    pub settings: StudySettings,
    /// The arms, the dense control first by convention.
    pub arms: Vec<Arm>,
    /// The rounds of the timings: sample `i` of every [`Timing`] is from round `i`, in which every arm was timed once. Empty if
    /// arms were timed one after another: their speeds are then not compared.
    #[serde(default)]
    pub rounds: Vec<TimingRound>,
}

/// One round of timings, in which every arm was timed once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TimingRound {
    /// CPUs that other processes kept busy on average during the round; `None` where the system does not report it.
    pub other_load_cpus: Option<f64>,
}

/// The pretrained decoder that every arm was grown from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BaseInfo {
    /// Name to show.
    pub name: String,
    /// SHA-256 of the weight files, one after another.
    pub sha256: Option<String>,
    /// Shape.
    pub config: DecoderConfig,
    /// Held-out loss of the base itself, nats per token.
    pub heldout_loss_nats: f64,
}

/// The text that the study trained and scored on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataInfo {
    /// Name to show.
    pub name: String,
    /// Tokens in the training split.
    pub train_tokens: u64,
    /// Tokens in the held-out split.
    pub heldout_tokens: u64,
    /// BLAKE3 of the ids of both splits; `None` in older records.
    #[serde(default)]
    pub blake3: Option<String>,
    /// Mean of −ln p of the held-out tokens under the distribution they were drawn from, nats per token: the loss of a
    /// model that knows that distribution. `None` for natural text.
    pub floor_nats: Option<f64>,
    /// Topics that the data are labelled with; may be empty.
    pub topics: Vec<String>,
}

/// The training settings of every arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StudySettings {
    /// Training FLOPs that each arm may spend.
    pub train_flops_budget_flops: u64,
    /// Sequences per optimizer step.
    pub batch_size: usize,
    /// Sequences per forward and backward pass; `None` in older records.
    #[serde(default)]
    pub micro_batch_size: Option<usize>,
    /// Tokens per sequence.
    pub seq_length: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Share of the steps over which the learning rate rises.
    pub warmup_fraction: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Seeds; each arm is trained once with each.
    pub seeds: Vec<u64>,
    /// The quantity that is equal between arms, in words.
    pub match_rule: String,
}

/// How an arm was grown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArmKind {
    /// The base itself, trained further: the control.
    Dense,
    /// Depth up-scaling: more layers.
    Deep,
    /// Sparse upcycling: more experts.
    Wide,
}

/// One model of the study: its shape, cost, training and speed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// Name to show, unique in the study.
    pub name: String,
    /// Deep, wide, or the control.
    pub kind: ArmKind,
    /// The growth in one line.
    pub growth: String,
    /// Shape after growth.
    pub config: DecoderConfig,
    /// Its cost, computed from the config.
    pub cost: Cost,
    /// Its training runs, one per seed.
    pub runs: Vec<SeedRun>,
    /// Its memory.
    pub memory: MemoryRecord,
    /// Its timings.
    pub timings: Vec<Timing>,
    /// The experts that the tokens of each topic visited; `None` without a router.
    pub expert_load: Option<ExpertLoad>,
}

/// The cost of a shape, computed from the config alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// All parameters.
    pub total_parameters: u64,
    /// Parameters that one token passes through.
    pub active_parameters: u64,
    /// FLOPs of the forward pass for one token, causal mean over the study's sequence length.
    pub forward_flops_per_token: u64,
    /// FLOPs of forward and backward pass for one token.
    pub train_flops_per_token: u64,
    /// Bytes of keys and values that one token adds to the cache.
    pub kv_bytes_per_token: u64,
    /// `(batch_size, bytes)`: weight bytes that one decoding step is expected to read at that batch size.
    pub decode_weight_bytes: Vec<(usize, u64)>,
}

/// One training run of an arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeedRun {
    /// Seed of growth and of the data order.
    pub seed: u64,
    /// Held-out loss of the base, nats per token.
    pub loss_before_growth_nats: f64,
    /// Held-out loss of the grown model before its first step, nats per token.
    pub loss_after_growth_nats: f64,
    /// Training, step by step.
    pub curve: Vec<CurvePoint>,
    /// Held-out scores, in the order of the steps; the last is the result.
    pub evals: Vec<EvalPoint>,
    /// Wall-clock time of training and scoring.
    pub wall_s: f64,
    /// Balance of the experts at the end; `None` without a router.
    pub router: Option<RouterSummary>,
}

/// One optimizer step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Steps taken, this one included.
    pub step: usize,
    /// Tokens seen.
    pub tokens: u64,
    /// Training FLOPs spent.
    pub train_flops: u64,
    /// Language-model loss of the batch, nats per token.
    pub train_loss_nats: f64,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Load-balancing loss; `None` without a router.
    pub aux_loss: Option<f64>,
    /// Speed of the step.
    pub tokens_per_second: f64,
}

/// A score on the held-out split during training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalPoint {
    /// Steps taken.
    pub step: usize,
    /// Tokens seen.
    pub tokens: u64,
    /// Training FLOPs spent.
    pub train_flops: u64,
    /// Held-out loss, nats per token.
    pub heldout_loss_nats: f64,
}

/// How evenly a router spread its tokens, layer by layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouterSummary {
    /// Standard deviation over mean of the experts' loads; 0 is even.
    pub load_cv: Vec<f64>,
    /// Entropy of the visits of the last batch over the experts; `ln num_local_experts` is even.
    pub entropy_nats: Vec<f64>,
    /// Experts that no token chose.
    pub dead_experts: Vec<usize>,
}

/// The memory of an arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemoryRecord {
    /// Weights plus the largest addition of prefill and decoding; `None` if not measured.
    pub inference_peak_bytes: Option<u64>,
    /// Peak of a training run; `None` if not measured.
    pub train_peak_bytes: Option<u64>,
    /// Weights alone.
    pub weight_bytes: u64,
    /// Keys and values of the largest batch that was decoded.
    pub kv_cache_bytes: u64,
}

/// What was timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Workload {
    /// One prompt at once.
    Prefill {
        /// Length of the prompt.
        tokens: usize,
    },
    /// One token after another.
    Decode {
        /// Sequences at once.
        batch: usize,
        /// Tokens generated per sequence.
        tokens: usize,
        /// Tokens already in the cache when the clock starts.
        context: usize,
    },
}

/// The time of one workload, run by run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// What was timed.
    pub workload: Workload,
    /// Tokens processed in each run, all sequences together.
    pub num_tokens: usize,
    /// Wall-clock time of each run after warm-up, device synced, one per round.
    pub samples_s: Vec<f64>,
}

/// The experts that the tokens of each topic visited.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExpertLoad {
    /// Names of the topics.
    pub topics: Vec<String>,
    /// `share[layer][topic][expert]`: the expert's share of the topic's routed tokens; sums to 1 over the experts.
    pub share: Vec<Vec<Vec<f64>>>,
}

impl Timing {
    /// `num_tokens / median(samples_s)`.
    ///
    /// # Panics
    /// If there are no samples; a checked [`Study`] has some.
    pub fn tokens_per_second(&self) -> f64 {
        self.num_tokens as f64 / median(&self.samples_s)
    }

    /// Lower and upper quartile of the speed, tokens per second.
    ///
    /// # Panics
    /// If there are no samples; a checked [`Study`] has some.
    pub fn tokens_per_second_quartiles(&self) -> (f64, f64) {
        let speed_at = |q| self.num_tokens as f64 / quantile(&self.samples_s, q);
        (speed_at(0.75), speed_at(0.25))
    }

    /// Interquartile range of the speed over its median.
    ///
    /// # Panics
    /// If there are no samples; a checked [`Study`] has some.
    pub fn relative_spread(&self) -> f64 {
        let (low, high) = self.tokens_per_second_quartiles();
        (high - low) / self.tokens_per_second()
    }

    /// Median time of one step, milliseconds: a decoding step gives one token to each sequence of the batch.
    ///
    /// # Panics
    /// If there are no samples; a checked [`Study`] has some.
    pub fn ms_per_step(&self) -> f64 {
        let steps = match self.workload {
            Workload::Prefill { .. } => 1,
            Workload::Decode { tokens, .. } => tokens,
        };
        median(&self.samples_s) * 1e3 / steps as f64
    }
}

impl SeedRun {
    /// Held-out loss of the last score, nats per token; `None` without scores.
    pub fn final_loss_nats(&self) -> Option<f64> {
        self.evals.last().map(|eval| eval.heldout_loss_nats)
    }
}

impl Arm {
    /// Mean over seeds of the final held-out loss, nats per token; `None` unless every run was scored.
    pub fn final_loss_nats(&self) -> Option<Estimate> {
        let finals: Option<Vec<f64>> = self.runs.iter().map(SeedRun::final_loss_nats).collect();
        Estimate::of(&finals?)
    }

    /// Mean over seeds of the held-out loss right after growth, nats per token; `None` without runs.
    pub fn loss_after_growth_nats(&self) -> Option<f64> {
        mean(&self.runs.iter().map(|run| run.loss_after_growth_nats).collect::<Vec<_>>())
    }

    /// Mean over seeds of the held-out loss before growth, nats per token; `None` without runs.
    pub fn loss_before_growth_nats(&self) -> Option<f64> {
        mean(&self.runs.iter().map(|run| run.loss_before_growth_nats).collect::<Vec<_>>())
    }

    /// Training FLOPs of the longest run; 0 without runs.
    pub fn train_flops_spent(&self) -> u64 {
        self.runs.iter().filter_map(|run| run.evals.last()).map(|eval| eval.train_flops).max().unwrap_or(0)
    }

    /// The timing of this workload, if it was measured.
    pub fn timing(&self, workload: Workload) -> Option<&Timing> {
        self.timings.iter().find(|timing| timing.workload == workload)
    }

    /// Weight bytes that a decoding step reads at this batch size, if computed.
    pub fn decode_weight_bytes(&self, batch: usize) -> Option<u64> {
        self.cost.decode_weight_bytes.iter().find(|(at, _)| *at == batch).map(|(_, bytes)| *bytes)
    }
}

impl Study {
    /// All workloads of all arms, prefill first, then decoding by batch size.
    pub fn workloads(&self) -> Vec<Workload> {
        let mut workloads: Vec<_> =
            self.arms.iter().flat_map(|arm| &arm.timings).map(|timing| timing.workload).collect();
        workloads.sort();
        workloads.dedup();
        workloads
    }

    /// The decoding workload of the smallest batch.
    pub fn smallest_decode(&self) -> Option<Workload> {
        self.workloads().into_iter().find(|workload| matches!(workload, Workload::Decode { .. }))
    }

    /// The first arm of this kind.
    pub fn first(&self, kind: ArmKind) -> Option<&Arm> {
        self.arms.iter().find(|arm| arm.kind == kind)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn speed_is_tokens_over_the_median_time() {
        let timing =
            Timing { workload: Workload::Prefill { tokens: 8 }, num_tokens: 8, samples_s: vec![4.0, 1.0, 2.0] };
        assert_eq!(timing.tokens_per_second(), 4.0);
        assert_eq!(timing.tokens_per_second_quartiles(), (8.0 / 3.0, 8.0 / 1.5));
        assert_eq!(timing.ms_per_step(), 2000.0);
    }

    #[test]
    fn a_decoding_step_gives_one_token_to_each_sequence() {
        let workload = Workload::Decode { batch: 4, tokens: 10, context: 0 };
        let timing = Timing { workload, num_tokens: 40, samples_s: vec![0.5] };
        assert_eq!(timing.ms_per_step(), 50.0);
        assert_eq!(timing.tokens_per_second(), 80.0);
    }

    #[test]
    fn the_result_of_an_arm_is_the_mean_of_its_last_scores() {
        let study = fixture::study(3, 3);
        let arm = &study.arms[1];
        let last: Vec<f64> = arm.runs.iter().map(|run| run.evals[run.evals.len() - 1].heldout_loss_nats).collect();
        assert_eq!(arm.final_loss_nats().unwrap().mean, last.iter().sum::<f64>() / 3.0);
    }

    #[test]
    fn an_arm_with_an_unscored_run_has_no_result() {
        let mut study = fixture::study(3, 3);
        study.arms[1].runs[2].evals.clear();
        assert_eq!(study.arms[1].final_loss_nats(), None);
        assert!(study.arms[0].final_loss_nats().is_some());
    }

    #[test]
    fn workloads_are_listed_once_prefill_first() {
        let kinds = fixture::study(3, 1).workloads();
        assert!(matches!(kinds[0], Workload::Prefill { .. }));
        assert!(matches!(kinds[1], Workload::Decode { batch: 1, .. }));
        assert_eq!(kinds.len(), 4);
    }
}
