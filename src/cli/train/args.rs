//! The options that `train`, `sft` and `dpo` share.

use std::path::PathBuf;

use clap::{Arg, Args, ValueEnum};

use super::super::failure::Failure;
use super::super::grow::GrowthArgs;
use super::super::values::{DtypeArg, count, non_negative_real, positive_real};
use super::groups::{Group, Multiplier};
use crate::config::DecoderConfig;
use crate::finetune::{Control, LoraSettings, Provenance, Settings};
use crate::profile::flops::train_flops;
use crate::train::{AdamWConfig, Decay, Dpo, RouterLoss, Schedule};
use crate::weights::WeightSource;

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

    /// Fraction of the data to hold out for evaluation
    #[arg(long, value_name = "R", default_value_t = 0.05, value_parser = share, help_heading = "Data")]
    pub test_split_size: f64,
    /// Maximum tokens per row [default: 1024, or the context of the model]
    #[arg(long, alias = "seq-length", value_name = "N", value_parser = positive, help_heading = "Data")]
    pub max_length: Option<usize>,

    /// Passes over the data [default: 1 for train, 3 for sft and dpo]
    #[arg(long, value_name = "X", value_parser = positive_real, help_heading = "Length")]
    pub num_train_epochs: Option<f64>,
    /// Updates, in place of epochs
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Length")]
    pub max_steps: Option<usize>,
    /// Tokens to read, in place of epochs: 1e9
    #[arg(long, value_name = "N", value_parser = count, conflicts_with = "max_steps", help_heading = "Length")]
    pub max_tokens: Option<u64>,
    /// FLOPs to spend, in place of epochs: 1e18
    #[arg(long, value_name = "N", value_parser = count, conflicts_with_all = ["max_steps", "max_tokens"], help_heading = "Length")]
    pub max_flops: Option<u64>,
    /// Save a checkpoint and stop after this many seconds
    #[arg(long, value_name = "S", value_parser = positive_real, help_heading = "Length")]
    pub max_time: Option<f64>,

    /// Rows per forward and backward pass
    #[arg(long, alias = "micro-batch-size", value_name = "N", default_value_t = 1, value_parser = positive, help_heading = "Optimization")]
    pub per_device_train_batch_size: usize,
    /// Passes per update
    ///
    /// Gradients are weighted by the number of targets in each pass, so the update does not depend on the split.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = positive, help_heading = "Optimization")]
    pub gradient_accumulation_steps: usize,
    /// Peak learning rate [default: 2e-5, 1e-6 for dpo]
    #[arg(long, alias = "lr", value_name = "X", value_parser = positive_real, help_heading = "Optimization")]
    pub learning_rate: Option<f64>,
    /// constant, linear, cosine, warmup_stable_decay
    #[arg(long, value_enum, value_name = "TYPE", hide_possible_values = true, default_value_t = SchedulerArg::Linear, help_heading = "Optimization")]
    pub lr_scheduler_type: SchedulerArg,
    /// Updates until the peak learning rate
    #[arg(long, value_name = "N", conflicts_with = "warmup_ratio", help_heading = "Optimization")]
    pub warmup_steps: Option<usize>,
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
    /// Largest norm of the gradient
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
    /// Suffixes of the matrices to adapt, such as q_proj,v_proj, or all-linear
    #[arg(long, value_name = "NAME", value_delimiter = ',', num_args = 1.., default_value = "all-linear", requires = "use_peft", help_heading = "LoRA")]
    pub lora_target_modules: Vec<String>,
    /// Scale by alpha / √rank
    #[arg(long, requires = "use_peft", help_heading = "LoRA")]
    pub use_rslora: bool,

    /// Updates between two lines of the log
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = positive, help_heading = "Checkpoints and logs")]
    pub logging_steps: usize,
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
    #[arg(long, alias = "resume-from-checkpoint", help_heading = "Checkpoints and logs")]
    pub resume: bool,
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
    /// flex; cuda, cuda:1, vulkan, ndarray, tch:cpu in other builds
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
    /// Names may contain underscores, as in max_length: 512. Flags are true or false.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub config: Option<PathBuf>,
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

/// Defaults that differ between commands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Defaults {
    pub num_train_epochs: f64,
    pub learning_rate: f64,
}

/// Properties of the data on which the settings of a run depend.
#[derive(Debug, Clone)]
pub(super) struct Inputs {
    pub num_rows: u64,
    /// Mean number of tokens of a row.
    pub row_tokens: u64,
    /// Hash of the data, its packing and its split.
    pub hash: String,
}

impl TrainingArgs {
    /// Tokens of a row, at most.
    ///
    /// # Errors
    /// If the context of the model is shorter.
    pub(super) fn max_length(&self, config: &DecoderConfig) -> Result<usize, Failure> {
        let context = config.max_position_embeddings;
        match self.max_length {
            Some(length) if length > context => Err(Failure::invalid(format_args!(
                "--max-length {length} exceeds max_position_embeddings {context} of the model"
            ))),
            length => Ok(length.unwrap_or(context.min(1024))),
        }
    }

    /// The settings of a run on a grown base, whose hash is `base`.
    pub(super) fn settings<S: WeightSource>(
        &self,
        source: &S,
        base: String,
        data: Inputs,
        max_length: usize,
        dpo: Option<Dpo>,
        defaults: Defaults,
    ) -> Result<Settings, Failure> {
        let batch_size = self.per_device_train_batch_size * self.gradient_accumulation_steps;
        let num_steps = self.num_steps(source.config(), &data, batch_size, defaults);
        let warmup_steps = self.warmup_steps.unwrap_or((self.warmup_ratio * num_steps as f64).ceil() as usize);
        let decay_steps = (self.decay_ratio * num_steps as f64).ceil() as usize;
        let decay = match self.lr_scheduler_type {
            SchedulerArg::Constant => Decay::Constant,
            SchedulerArg::Linear => Decay::Linear,
            SchedulerArg::Cosine => Decay::Cosine,
            SchedulerArg::WarmupStableDecay => Decay::WarmupStableDecay { decay_steps },
        };
        let multipliers = self.lr_multiplier.iter().map(|multiplier| (&multiplier.group, multiplier.value));
        let provenance = Provenance::of(source);
        let groups = multipliers.chain(self.freeze.iter().map(|group| (group, 0.0)));
        let groups = groups.map(|(group, multiplier)| Ok((group.pattern(&provenance)?, multiplier)));
        Ok(Settings {
            seed: self.growth.seed,
            max_length,
            batch_size,
            micro_batch_size: self.per_device_train_batch_size,
            adamw: AdamWConfig {
                beta1: self.adam_beta1,
                beta2: self.adam_beta2,
                epsilon: self.adam_epsilon,
                weight_decay: self.weight_decay,
            },
            schedule: Schedule {
                peak: self.learning_rate.unwrap_or(defaults.learning_rate),
                warmup_steps,
                num_steps,
                final_fraction: self.min_lr_rate,
                decay,
            },
            max_grad_norm: self.max_grad_norm,
            router: self.router_loss(),
            groups: groups.collect::<Result<_, Failure>>()?,
            dpo,
            lora: self.lora(),
            base,
            data: data.hash,
        })
    }

    /// Rows to train on of `num_rows`, before those that are held out.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn num_train(&self, num_rows: u64) -> Result<u64, Failure> {
        match num_rows - (num_rows as f64 * self.test_split_size).round() as u64 {
            0 => Err(Failure::invalid(format_args!(
                "the data has {num_rows} rows, expected at least one to train on beside the --test-split-size {}",
                self.test_split_size
            ))),
            num_train => Ok(num_train),
        }
    }

    /// The terms of routers.
    pub(super) fn router_loss(&self) -> RouterLoss {
        RouterLoss { aux_loss_coef: self.router_aux_loss_coef, z_loss_coef: self.router_z_loss_coef }
    }

    fn num_steps(&self, config: &DecoderConfig, data: &Inputs, batch_size: usize, defaults: Defaults) -> usize {
        let per_update = |total: u128, update: u128| total.div_ceil(update.max(1)).clamp(1, 1 << 40) as usize;
        if let Some(steps) = self.max_steps {
            return steps;
        }
        if let Some(tokens) = self.max_tokens {
            return per_update(tokens.into(), u128::from(data.row_tokens) * batch_size as u128);
        }
        if let Some(flops) = self.max_flops {
            return per_update(flops.into(), train_flops(config, batch_size as u64, data.row_tokens));
        }
        let epochs = self.num_train_epochs.unwrap_or(defaults.num_train_epochs);
        ((epochs * data.num_rows as f64 / batch_size as f64).ceil() as usize).max(1)
    }

    fn lora(&self) -> Option<LoraSettings> {
        self.use_peft.then(|| LoraSettings {
            r: self.lora_r,
            lora_alpha: self.lora_alpha,
            use_rslora: self.use_rslora,
            target_modules: self.lora_target_modules.clone(),
        })
    }

    /// When the run logs, evaluates, saves and stops.
    pub(super) fn control(&self) -> Control {
        Control {
            logging_steps: self.logging_steps,
            eval_steps: self.eval_steps,
            save_steps: Some(self.save_steps),
            skip_nonfinite: self.skip_nonfinite,
            early_stopping_patience: self.early_stopping_patience,
            max_time_s: self.max_time,
            save_best: self.load_best_model_at_end,
        }
    }
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
