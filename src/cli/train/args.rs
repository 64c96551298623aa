//! The options that `train`, `sft` and `dpo` share.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, Args, ValueEnum};

use super::super::grow::GrowthArgs;
use super::super::values::{DtypeArg, count, dropout_probability, non_negative_real, positive_real};
use super::groups::{Group, Multiplier};
/// Options that the short help shows.
const SHORT: [&str; 12] = [
    "base",
    "data",
    "max_length",
    "max_steps",
    "learning_rate",
    "use_peft",
    "eval_steps",
    "resume",
    "out",
    "json",
    "packing",
    "beta",
];

/// Leaves the other options to `--help`.
pub(super) fn brief(arg: Arg) -> Arg {
    let is_shown = SHORT.contains(&arg.get_id().as_str()) || arg.is_global_set();
    if is_shown { arg } else { arg.hide_short_help(true) }
}

/// Options with the names of transformers' and TRL's trainers.
#[derive(Debug, Clone, Args)]
pub struct TrainingArgs {
    /// How the base is grown before it is trained.
    #[command(flatten)]
    pub growth: GrowthArgs,

    /// Fraction of the rows of each source to hold out for evaluation
    ///
    /// The rows are random, and do not depend on --seed. Of token shards, the documents that tokenize --heldout kept apart are
    /// evaluated instead, if there are any.
    #[arg(long, value_name = "R", default_value_t = 0.05, value_parser = share, help_heading = "Data")]
    pub test_split_size: f64,
    /// Evaluate on this data instead of held-out rows, in a format that --data takes
    #[arg(long, alias = "validation-file", value_name = "DATA", num_args = 1.., help_heading = "Data")]
    pub eval_data: Vec<PathBuf>,
    /// When to evaluate: no (nothing is held out), steps (every --eval-steps, else --logging-steps), epoch (at the end only)
    #[arg(
        long,
        alias = "evaluation-strategy",
        value_enum,
        value_name = "WHEN",
        hide_possible_values = true,
        help_heading = "Data"
    )]
    pub eval_strategy: Option<EvalStrategyArg>,
    /// Rows of each source to hold out, at most; of --eval-data, rows to evaluate
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = count, help_heading = "Data")]
    pub max_eval_samples: u64,
    /// Leave out up to N rows that break a rule (not valid JSON, missing fields); the next one is an error
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Data")]
    pub skip_bad: u64,
    /// Maximum tokens per row [default: 1024, or the context of the model]
    #[arg(long, alias = "seq-length", value_name = "N", value_parser = positive, help_heading = "Data")]
    pub max_length: Option<usize>,

    /// Passes over the data
    // Each command has its own default.
    #[arg(long, value_name = "X", required = false, value_parser = positive_real, help_heading = "Length")]
    pub num_train_epochs: f64,
    /// Updates, in place of epochs
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Length")]
    pub max_steps: Option<usize>,
    /// Tokens to read, in place of epochs: 1e9
    #[arg(long, value_name = "N", value_parser = count, conflicts_with = "max_steps", help_heading = "Length")]
    pub max_tokens: Option<u64>,
    /// FLOPs to spend, in place of epochs: 1e18. Excludes evaluation; dpo includes the reference
    #[arg(long, value_name = "N", value_parser = count, conflicts_with_all = ["max_steps", "max_tokens"], help_heading = "Length")]
    pub max_flops: Option<u64>,
    /// Save a checkpoint and stop after this many seconds
    #[arg(long, value_name = "S", value_parser = positive_real, help_heading = "Length")]
    pub max_time: Option<f64>,

    /// Rows per forward and backward pass [default: 1, or 8 if only --gradient-accumulation-steps is given]
    ///
    /// Short rows share a pass: it takes more rows up to 512 tokens, but never more tokens than this many rows of --max-length have.
    #[arg(long, alias = "micro-batch-size", value_name = "N", value_parser = positive, help_heading = "Optimization")]
    pub per_device_train_batch_size: Option<usize>,
    /// Passes per update [default: 8, or 1 if only --per-device-train-batch-size is given]
    ///
    /// Gradients are weighted by the number of targets in each pass, so the update does not depend on the split.
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Optimization")]
    pub gradient_accumulation_steps: Option<usize>,
    /// Multiply in bfloat16, with float32 weights, sums and gradients
    ///
    /// Faster on GPUs, and on CPUs with AMX.
    #[arg(long, help_heading = "Optimization")]
    pub bf16: bool,
    /// Store only layer inputs and recompute layers in the backward pass: less memory, a third more compute (flex only)
    #[arg(long, help_heading = "Optimization")]
    pub gradient_checkpointing: bool,
    /// Peak learning rate
    // Each command has its own default.
    #[arg(long, alias = "lr", value_name = "X", required = false, value_parser = positive_real, help_heading = "Optimization")]
    pub learning_rate: f64,
    /// Learning-rate schedule: constant, linear, cosine, warmup_stable_decay
    #[arg(long, value_enum, value_name = "TYPE", hide_possible_values = true, default_value_t = SchedulerArg::Linear, help_heading = "Optimization")]
    pub lr_scheduler_type: SchedulerArg,
    /// Updates until the peak learning rate; below 1, a fraction of all updates
    #[arg(long, value_name = "N", conflicts_with = "warmup_ratio", value_parser = non_negative_real, help_heading = "Optimization")]
    pub warmup_steps: Option<f64>,
    /// Warm-up as a fraction of all updates
    #[arg(long, value_name = "R", default_value_t = 0.0, value_parser = share, help_heading = "Optimization")]
    pub warmup_ratio: f64,
    /// Decay phase of warmup_stable_decay, as a fraction of all updates
    #[arg(long, value_name = "R", default_value_t = 0.1, value_parser = share, help_heading = "Optimization")]
    pub decay_ratio: f64,
    /// Final learning rate, as a fraction of the peak
    #[arg(long, value_name = "R", default_value_t = 0.0, value_parser = share, help_heading = "Optimization")]
    pub min_lr_rate: f64,
    /// Decoupled weight decay of matrices
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = non_negative_real, help_heading = "Optimization")]
    pub weight_decay: f64,
    /// Decay of AdamW's first moment
    #[arg(long, value_name = "X", default_value_t = 0.9, value_parser = share, help_heading = "Optimization")]
    pub adam_beta1: f64,
    /// Decay of AdamW's second moment
    #[arg(long, value_name = "X", default_value_t = 0.999, value_parser = share, help_heading = "Optimization")]
    pub adam_beta2: f64,
    /// Added to the root of AdamW's second moment
    #[arg(long, value_name = "X", default_value_t = 1e-8, value_parser = positive_real, help_heading = "Optimization")]
    pub adam_epsilon: f64,
    /// Maximum global norm of the gradient, for clipping
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = positive_real, help_heading = "Optimization")]
    pub max_grad_norm: f64,
    /// Parameters to freeze: copied, new, embeddings, attention, mlp, norms, experts, router, head, or a regular expression
    ///
    /// Separate groups by commas, or repeat the option. With a growth, "new" selects repeated or added layers and created routers,
    /// and "copied" everything else: --identity-blocks 4 --freeze copied trains like LLaMA-Pro. A regular expression is searched in names such as model.layers.0.mlp.up_proj.weight.
    #[arg(long, value_name = "GROUP", value_delimiter = ',', help_heading = "Optimization")]
    pub freeze: Vec<Group>,
    /// Multiplier of the learning rate of a group: router=10
    #[arg(long, value_name = "GROUP=X", value_delimiter = ',', help_heading = "Optimization")]
    pub lr_multiplier: Vec<Multiplier>,
    /// Coefficient of the balancing loss of a mixture [default: as in config.json]
    #[arg(long, value_name = "X", value_parser = non_negative_real, help_heading = "Mixtures")]
    pub router_aux_loss_coef: Option<f64>,
    /// Balance experts without a loss, by a bias that each update changes by X: 0.001
    ///
    /// The bias decides which experts a token visits, not their weights. The balancing loss is then off unless
    /// --router-aux-loss-coef is given. The written model has no bias, as Mixtral has none; evaluations go without it.
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = non_negative_real, help_heading = "Mixtures")]
    pub router_bias_update_rate: f64,
    /// Coefficient of the z-loss of a mixture
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = non_negative_real, help_heading = "Mixtures")]
    pub router_z_loss_coef: f64,

    /// Train a LoRA adapter and write it in PEFT's format
    #[arg(long, help_heading = "LoRA")]
    pub use_peft: bool,
    /// Rank of the adapter
    #[arg(long, value_name = "R", default_value_t = 16, value_parser = positive, requires = "use_peft", help_heading = "LoRA")]
    pub lora_r: usize,
    /// Numerator of the scale, alpha / rank
    #[arg(long, value_name = "X", default_value_t = 32.0, value_parser = positive_real, requires = "use_peft", help_heading = "LoRA")]
    pub lora_alpha: f64,
    /// Dropout probability on the inputs of the adapter, in training only
    #[arg(long, value_name = "P", default_value_t = 0.05, value_parser = dropout_probability, requires = "use_peft", help_heading = "LoRA")]
    pub lora_dropout: f64,
    /// Suffixes of the matrices to adapt, such as q_proj,v_proj; or all-linear (without the head), or all-linear,lm_head
    #[arg(long, value_name = "NAME", value_delimiter = ',', num_args = 1.., default_value = "all-linear", requires = "use_peft", help_heading = "LoRA")]
    pub lora_target_modules: Vec<String>,
    /// Scale by alpha / √rank
    #[arg(long, requires = "use_peft", help_heading = "LoRA")]
    pub use_rslora: bool,

    /// Updates between two lines of the log
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = positive, help_heading = "Checkpoints and logs")]
    pub logging_steps: usize,
    /// Peak of the device in TFLOP/s, of which MFU is the share [default: measured]
    #[arg(long, value_name = "X", value_parser = positive_real, help_heading = "Checkpoints and logs")]
    pub peak_tflops: Option<f64>,
    /// Updates between two evaluations [default: only at the end]
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Checkpoints and logs")]
    pub eval_steps: Option<usize>,
    /// Updates between two checkpoints
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = positive, help_heading = "Checkpoints and logs")]
    pub save_steps: usize,
    /// Number of recent checkpoints to keep, in addition to the best
    #[arg(long, alias = "keep", value_name = "N", default_value_t = 2, value_parser = positive, help_heading = "Checkpoints and logs")]
    pub save_total_limit: usize,
    /// Folder of checkpoints and log [default: OUT-checkpoints]
    #[arg(long, value_name = "DIR", help_heading = "Checkpoints and logs")]
    pub checkpoints: Option<PathBuf>,
    /// Continue from the newest checkpoint, exactly
    #[arg(long, conflicts_with = "resume_from_checkpoint", help_heading = "Checkpoints and logs")]
    pub resume: bool,
    /// Continue from this checkpoint, exactly; true is --resume
    #[arg(long, value_name = "CHECKPOINT", num_args = 0..=1, default_missing_value = "true", help_heading = "Checkpoints and logs")]
    pub resume_from_checkpoint: Option<ResumeArg>,
    /// Skip updates with a non-finite loss or gradient instead of stopping
    #[arg(long, help_heading = "Checkpoints and logs")]
    pub skip_nonfinite: bool,
    /// Stop after this many evaluations without improvement
    #[arg(long, value_name = "N", value_parser = positive, requires = "eval_steps", help_heading = "Checkpoints and logs")]
    pub early_stopping_patience: Option<usize>,
    /// Redraw loss.svg beside the checkpoints at every line of the log
    #[arg(long, help_heading = "Checkpoints and logs")]
    pub plot: bool,
    /// Write the model with the best evaluation loss instead of the last one
    ///
    /// Saves a checkpoint at each new best evaluation.
    #[arg(long, requires = "eval_steps", help_heading = "Checkpoints and logs")]
    pub load_best_model_at_end: bool,

    /// Folder for the trained model
    #[arg(long, alias = "output-dir", short, value_name = "OUT", help_heading = "Output")]
    pub out: PathBuf,
    /// Type of the written weights: float32, float16, bfloat16
    #[arg(long, value_enum, value_name = "TYPE", hide_possible_values = true, default_value_t = DtypeArg::Float32, help_heading = "Output")]
    pub dtype: DtypeArg,
    /// Replace OUT if it is as deepwide wrote it
    #[arg(long, short = 'y', help_heading = "Output")]
    pub force: bool,
    /// Device: flex; in builds with their features also cuda, cuda:1, vulkan, wgpu, ndarray, tch:cpu
    #[arg(long, default_value = "flex", help_heading = "Output")]
    pub device: String,
    /// With --force, replace OUT even if its files were modified
    #[arg(long, requires = "force", help_heading = "Output")]
    pub discard_modified: bool,
    /// Print one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// YAML file with any of these options, as key: value; the command line wins
    ///
    /// Names may contain underscores, as in max_length: 512. Flags are true or false. Configs of TRL work too: model_name_or_path
    /// is BASE, keys without effect are listed in a note, and keys that ask for anything else are refused.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub config: Option<PathBuf>,
}

impl TrainingArgs {
    /// Whether a part of the data is evaluated.
    pub(super) fn evaluates(&self) -> bool {
        self.holdout().share > 0.0 || !self.eval_data.is_empty()
    }

    /// Whether the run continues from a checkpoint.
    pub(super) fn resumes(&self) -> bool {
        self.resume || self.resume_from_checkpoint.as_ref().is_some_and(|arg| *arg != ResumeArg::Never)
    }

    /// Rows of a pass, and passes of an update. Where only one of them is given, the other is TRL's default.
    pub(super) fn batch(&self) -> (usize, usize) {
        match (self.per_device_train_batch_size, self.gradient_accumulation_steps) {
            (None, None) => (1, 8),
            (rows, passes) => (rows.unwrap_or(8), passes.unwrap_or(1)),
        }
    }
}

/// `--eval-strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EvalStrategyArg {
    /// Nothing is held out.
    // A plain `no` is false in YAML 1.1.
    #[value(alias = "false")]
    No,
    /// Every [`eval_steps`](TrainingArgs::eval_steps), or else every [`logging_steps`](TrainingArgs::logging_steps).
    Steps,
    /// As [`eval_steps`](TrainingArgs::eval_steps) says.
    Epoch,
}

/// `--resume-from-checkpoint`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResumeArg {
    /// `true`: from the newest checkpoint.
    Newest,
    /// `false`.
    Never,
    /// From this one.
    From(PathBuf),
}

impl From<OsString> for ResumeArg {
    fn from(text: OsString) -> Self {
        match text.to_str() {
            Some("true" | "True") => Self::Newest,
            Some("false" | "False") => Self::Never,
            _ => Self::From(text.into()),
        }
    }
}

/// `--lr-scheduler-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum SchedulerArg {
    /// The peak, to the end.
    #[value(alias = "constant_with_warmup")]
    Constant,
    /// A straight line.
    Linear,
    /// Half a cosine.
    #[value(alias = "cosine_with_min_lr")]
    Cosine,
    /// The peak, then a straight line.
    #[value(alias = "wsd")]
    WarmupStableDecay,
}

/// Parses a share, at least 0 and below 1.
fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..1.0).contains(&number) => Ok(number),
        _ => Err(format!("{text:?} is not a number from 0 to below 1")),
    }
}

/// Parses a whole number from 1 to `u32::MAX`.
fn positive(text: &str) -> Result<usize, String> {
    match count(text)? {
        number if number <= u64::from(u32::MAX) => Ok(number as usize),
        number => Err(format!("{number} is too large, expected at most {}", u32::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::super::sft::SftArgs;
    use super::*;

    fn parsed(words: &[&str]) -> TrainingArgs {
        let words = [&["sft", "base", "--data", "d", "-o", "out"], words].concat();
        let matches = SftArgs::augment_args(Command::new("sft")).try_get_matches_from(words).unwrap();
        SftArgs::from_arg_matches(&matches).unwrap().training
    }

    #[test]
    fn one_of_rows_and_passes_alone_has_the_other_of_trl() {
        let (rows, passes) = (["--per-device-train-batch-size", "16"], ["--gradient-accumulation-steps", "4"]);
        assert_eq!(parsed(&[]).batch(), (1, 8));
        assert_eq!(parsed(&rows).batch(), (16, 1));
        assert_eq!(parsed(&passes).batch(), (8, 4));
        assert_eq!(parsed(&[rows, passes].concat()).batch(), (16, 4));
    }

    #[test]
    fn rows_are_held_out_unless_the_strategy_is_no() {
        assert_eq!(parsed(&["--eval-strategy", "steps"]).holdout().share, 0.05);
        let interval = |words: &[&str]| parsed(&[words, &["--logging-steps", "7"]].concat()).evaluation_interval();
        assert_eq!(interval(&["--eval-strategy", "steps"]), Some(7));
        assert_eq!(interval(&["--eval-strategy", "steps", "--eval-steps", "3"]), Some(3));
        assert_eq!(interval(&[]), None);
        for no in ["no", "false"] {
            assert_eq!(parsed(&["--evaluation-strategy", no, "--test-split-size", "0.1"]).holdout().share, 0.0);
        }
    }
}
