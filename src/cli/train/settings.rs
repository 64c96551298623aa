//! The settings of a run from its options.

use super::args::{EvalStrategyArg, SchedulerArg, TrainingArgs};
use super::operations::Operations;
use crate::cli::failure::Failure;
use crate::config::DecoderConfig;
use crate::data::Mixture;
use crate::finetune::{Control, DataSettings, Holdout, LoraSettings, Provenance, Settings};
use crate::train::{AdamWConfig, Decay, Dpo, RouterLoss, Schedule};
use crate::weights::WeightSource;

/// The data of a run.
#[derive(Debug, Clone, Default)]
pub(super) struct Inputs {
    pub sources: Vec<Input>,
    /// Hash of the rows of `--eval-data`.
    pub evaluated: Option<String>,
    /// Rows that are evaluated.
    pub num_heldout: usize,
}

/// A source of data.
#[derive(Debug, Clone)]
pub(super) struct Input {
    pub settings: DataSettings,
    /// Mean number of tokens of a row.
    pub row_tokens: u64,
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

    /// [`max_length`](Self::max_length) of records, whose first token is not predicted.
    pub(super) fn max_length_of_records(&self, config: &DecoderConfig) -> Result<usize, Failure> {
        match self.max_length(config)? {
            1 => Err(Failure::invalid("--max-length 1 leaves no token to predict, expected at least 2")),
            length => Ok(length),
        }
    }

    /// The settings of a run on a grown base, whose hash is `base`.
    pub(super) fn settings<S: WeightSource>(
        &self,
        source: &S,
        base: String,
        Inputs { sources: inputs, evaluated, .. }: Inputs,
        max_length: usize,
        dpo: Option<Dpo>,
    ) -> Result<Settings, Failure> {
        let (micro_batch_size, num_passes) = self.batch();
        let batch_size = micro_batch_size * num_passes;
        let multipliers = self.lr_multiplier.iter().map(|multiplier| (&multiplier.group, multiplier.value));
        let provenance = Provenance::of(source);
        let groups = multipliers.chain(self.freeze.iter().map(|group| (group, 0.0)));
        let groups = groups.map(|(group, multiplier)| Ok((group.pattern(&provenance)?, multiplier)));
        let mut settings = Settings {
            seed: self.growth.seed,
            max_length,
            batch_size,
            micro_batch_size,
            bf16: self.bf16,
            adamw: AdamWConfig {
                beta1: self.adam_beta1,
                beta2: self.adam_beta2,
                epsilon: self.adam_epsilon,
                weight_decay: self.weight_decay,
            },
            schedule: self.schedule(1),
            max_grad_norm: self.max_grad_norm,
            router: self.router_loss(),
            router_bias_update_rate: self.router_bias_update_rate,
            groups: groups.collect::<Result<_, Failure>>()?,
            dpo,
            lora: self.lora(source.config()),
            base,
            data: inputs.iter().map(|input| input.settings.clone()).collect(),
            eval_data: evaluated,
        };
        settings.schedule = self.schedule(self.num_steps(&settings, source.config(), &inputs));
        Ok(settings)
    }

    /// The learning rate of a run of `num_steps` updates.
    fn schedule(&self, num_steps: usize) -> Schedule {
        // As in transformers 5, a number of updates below 1 is a fraction of all.
        let warmup = self.warmup_steps.unwrap_or(self.warmup_ratio);
        let warmup_steps = if warmup < 1.0 { warmup * num_steps as f64 } else { warmup }.ceil() as usize;
        let decay_steps = (self.decay_ratio * num_steps as f64).ceil() as usize;
        let decay = match self.lr_scheduler_type {
            SchedulerArg::Constant => Decay::Constant,
            SchedulerArg::Linear => Decay::Linear,
            SchedulerArg::Cosine => Decay::Cosine,
            SchedulerArg::WarmupStableDecay => Decay::WarmupStableDecay { decay_steps },
        };
        Schedule { peak: self.learning_rate, warmup_steps, num_steps, final_fraction: self.min_lr_rate, decay }
    }

    /// The rows kept from training: none if nothing or other data is evaluated.
    pub(super) fn holdout(&self) -> Holdout {
        let is_split = self.eval_data.is_empty() && self.eval_strategy != Some(EvalStrategyArg::No);
        let share = if is_split { self.test_split_size } else { 0.0 };
        Holdout { share, max_rows: self.max_eval_samples }
    }

    /// Updates between two evaluations, as transformers' trainer takes it; `None` evaluates at the end only.
    pub(super) fn evaluation_interval(&self) -> Option<usize> {
        let is_asked = self.eval_strategy == Some(EvalStrategyArg::Steps);
        self.eval_steps.or(is_asked.then_some(self.logging_steps))
    }

    /// The terms of routers.
    pub(super) fn router_loss(&self) -> RouterLoss {
        let default = (self.router_bias_update_rate > 0.0).then_some(0.0);
        RouterLoss { aux_loss_coef: self.router_aux_loss_coef.or(default), z_loss_coef: self.router_z_loss_coef }
    }

    fn num_steps(&self, settings: &Settings, config: &DecoderConfig, inputs: &[Input]) -> usize {
        let batch_size = settings.batch_size;
        let update_tokens = mean_tokens(inputs).saturating_mul(batch_size as u64);
        if let Some(steps) = self.max_steps {
            return steps;
        }
        if let Some(tokens) = self.max_tokens {
            return tokens.div_ceil(update_tokens.max(1)).clamp(1, 1 << 40) as usize;
        }
        if let Some(flops) = self.max_flops {
            let num_rows: u64 = inputs.iter().map(|input| input.settings.num_rows).sum();
            let num_updates_of_data = num_rows as f64 / batch_size as f64;
            return Operations::new(config, settings).updates_within(flops as f64, update_tokens, num_updates_of_data);
        }
        let num_visits =
            Mixture::new(inputs.iter().map(|input| (input.settings.num_rows, input.settings.weight)), 0).num_visits();
        ((self.num_train_epochs * num_visits as f64 / batch_size as f64).ceil() as usize).max(1)
    }

    /// Checks that the model has the matrices to adapt.
    ///
    /// # Errors
    /// A name that is not that of one.
    pub(super) fn check_adapter(&self, config: &DecoderConfig) -> Result<(), Failure> {
        let Some(lora) = self.lora(config) else { return Ok(()) };
        lora.check_names(config).map_err(|error| Failure::usage(error).for_option("--lora-target-modules"))
    }

    fn lora(&self, config: &DecoderConfig) -> Option<LoraSettings> {
        let lora = self.use_peft.then(|| LoraSettings {
            r: self.lora_r,
            lora_alpha: self.lora_alpha,
            use_rslora: self.use_rslora,
            lora_dropout: self.lora_dropout,
            target_modules: self.lora_target_modules.clone(),
        });
        lora.map(|lora| lora.expanded(config))
    }

    /// When the run logs, evaluates, saves and stops.
    pub(super) fn control(&self) -> Control {
        Control {
            logging_steps: self.logging_steps,
            eval_steps: self.evaluation_interval(),
            save_steps: Some(self.save_steps),
            skip_nonfinite: self.skip_nonfinite,
            early_stopping_patience: self.early_stopping_patience,
            max_time_s: self.max_time,
            save_best: self.load_best_model_at_end,
        }
    }
}

/// Mean number of tokens of the rows that an epoch visits, rounded up.
fn mean_tokens(inputs: &[Input]) -> u64 {
    let visits = |input: &Input| input.settings.num_rows as f64 * input.settings.weight;
    let num_tokens: f64 = inputs.iter().map(|input| visits(input) * input.row_tokens as f64).sum();
    (num_tokens / inputs.iter().map(visits).sum::<f64>()).ceil() as u64
}
