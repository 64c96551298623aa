//! The loop of a run: updates, log lines, evaluations, checkpoints.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use burn::module::Module;

use super::checkpoint::Checkpoints;
use super::health::{HealthWatch, Warning};
use super::log::{LogEntry, eval_entry, to_jsonl};
use super::progress::Progress;
use super::task::{Report, Task};
use super::{FinetuneError, Settings};
use crate::error::FileError;
use crate::formats::Sidecar;
use crate::model::{AnyDecoder, CausalLm};
use crate::output::commit::write_file_atomically;
use crate::train::{AdamW, TrainConfig, Trainer};

/// The file of the log, a line per entry.
const LOG: &str = "log.jsonl";

/// When a run logs, evaluates, saves and stops. None of it affects an update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Control {
    /// Updates between two lines of the log.
    pub logging_steps: usize,
    /// Updates between two evaluations; `None` evaluates at the end only.
    pub eval_steps: Option<usize>,
    /// Updates between two checkpoints; `None` saves at the end only.
    pub save_steps: Option<usize>,
    /// Skip non-finite updates instead of stopping.
    pub skip_nonfinite: bool,
    /// Stop after this many evaluations without improvement.
    pub early_stopping_patience: Option<usize>,
    /// Save a checkpoint and stop after this many seconds.
    pub max_time_s: Option<f64>,
    /// Save a checkpoint at every evaluation that is the best so far.
    pub save_best: bool,
}

impl Control {
    /// Checkpoints that `num_steps` further updates save, at most.
    pub(super) fn num_saved(&self, num_steps: usize) -> usize {
        let due = |interval: Option<usize>| interval.map_or(0, |interval| num_steps.div_ceil(interval));
        let num_best = if self.save_best { due(self.eval_steps) } else { 0 };
        (due(self.save_steps) + num_best).clamp(num_steps.min(1), num_steps)
    }
}

/// An event of a run, for a progress display.
#[derive(Debug)]
pub enum Event<'a> {
    /// An update was made.
    Updated {
        /// Updates so far.
        step: usize,
        /// Its loss.
        loss: f64,
        /// Tokens that it read.
        num_tokens: u64,
        /// Its wall-clock time.
        wall_s: f64,
    },
    /// An update and its line in the log are done.
    Looped {
        /// Wall-clock time beside that of the update itself: rows made into batches, log, display.
        overhead_s: f64,
    },
    /// A line was logged.
    Logged(&'a LogEntry),
    /// A checkpoint was saved.
    Saved(&'a Path),
    /// A non-finite update was skipped.
    Skipped {
        /// The update, from 1.
        step: usize,
    },
    /// The run shows a sign of learning nothing. It goes on.
    Warned(Warning),
    /// The log cannot be written. The run goes on: its checkpoints have the lines, and the file gets them once it can be written.
    LogFailed(FinetuneError),
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ended {
    /// All updates were made.
    Complete,
    /// The held-out loss stopped falling.
    Early,
    /// It was interrupted or ran out of time; resume from this checkpoint.
    Stopped(PathBuf),
}

/// Where a run begins: a model and an optimizer in the state of its progress.
pub struct Start {
    /// The model.
    pub model: AnyDecoder,
    /// The optimizer.
    pub optimizer: AdamW,
    /// The updates made before.
    pub progress: Progress,
    /// The checkpoint that it was read from.
    pub checkpoint: Option<PathBuf>,
}

/// A run in progress.
pub struct Run<'a, T: Task> {
    task: &'a T,
    settings: &'a Settings,
    control: Control,
    checkpoints: &'a Checkpoints,
    sidecar: &'a Sidecar,
    trainer: Trainer<AnyDecoder, T::Objective>,
    progress: Progress,
    health: HealthWatch,
    /// Whether the file of the log lacks lines.
    is_log_behind: bool,
    last_checkpoint: Option<PathBuf>,
    /// Steps of the checkpoints of this run.
    saved: Vec<usize>,
}

impl<'a, T: Task> Run<'a, T> {
    /// Continues from `start`.
    ///
    /// # Errors
    /// [`FinetuneError::Pattern`]; if the directory of checkpoints cannot be read.
    pub fn new(
        task: &'a T,
        settings: &'a Settings,
        control: Control,
        checkpoints: &'a Checkpoints,
        sidecar: &'a Sidecar,
        Start { model, optimizer, mut progress, checkpoint }: Start,
    ) -> Result<Self, FinetuneError> {
        // The best model of a run that did not keep it cannot be loaded at the end.
        progress.best.take_if(|(_, step)| control.save_best && !checkpoints.path(*step).is_dir());
        let config = TrainConfig { schedule: settings.schedule, max_grad_norm: settings.max_grad_norm };
        let optimizer = optimizer.with_groups(settings.param_groups()?);
        let model = model.with_selection_bias(progress.router_bias.layers());
        let experts_per_token = model.config().moe.map_or(0, |moe| moe.num_experts_per_tok);
        let trainer = Trainer::new(model, task.objective(), optimizer, config);
        // A run that continues from another directory has no checkpoint here.
        let is_here = checkpoint.as_deref() == Some(&*checkpoints.path(progress.step));
        let saved = if is_here { checkpoints.complete_steps()? } else { Vec::new() };
        Ok(Self {
            task,
            settings,
            control,
            checkpoints,
            sidecar,
            trainer,
            progress,
            health: HealthWatch::new(experts_per_token),
            is_log_behind: false,
            last_checkpoint: checkpoint,
            saved,
        })
    }

    /// Makes the remaining updates. `stop` is called after each.
    ///
    /// # Errors
    /// [`FinetuneError`]; checkpoints saved before stay.
    pub fn finish(
        mut self,
        stop: &dyn Fn() -> bool,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Result<(AnyDecoder, Progress, Ended), FinetuneError> {
        let start = std::time::Instant::now();
        let num_steps = self.settings.schedule.num_steps;
        let _lock = self.checkpoints.lock()?;
        self.begin_log()?;
        let patience = self.control.early_stopping_patience;
        let is_patient = |progress: &Progress| patience.is_none_or(|limit| progress.num_evals_since_best < limit);
        if self.progress.step < num_steps && !is_patient(&self.progress) {
            self.log(watch);
            return Ok((self.trainer.into_model(), self.progress, Ended::Early));
        }
        while self.progress.step < num_steps {
            let begin = std::time::Instant::now();
            let update_s = self.update(watch)?;
            let step = self.progress.step;
            let is_last = step == num_steps;
            if due(step, Some(self.control.logging_steps)) {
                self.log(watch);
            }
            watch(Event::Looped { overhead_s: begin.elapsed().as_secs_f64() - update_s });
            let (mut is_early, mut is_best) = (false, false);
            if due(step, self.control.eval_steps) {
                self.evaluate(watch)?;
                is_early = !is_last && !is_patient(&self.progress);
                is_best = self.control.save_best && self.progress.best.is_some_and(|(_, best)| best == step);
            }
            let is_over = self.control.max_time_s.is_some_and(|limit| start.elapsed().as_secs_f64() >= limit);
            let is_stopped = !is_last && !is_early && (stop() || is_over);
            if due(step, self.control.save_steps) || is_last || is_early || is_stopped || is_best {
                let path = self.save(watch)?;
                if is_stopped {
                    return Ok((self.trainer.into_model(), self.progress, Ended::Stopped(path)));
                }
            }
            if is_early {
                self.log(watch);
                return Ok((self.trainer.into_model(), self.progress, Ended::Early));
            }
        }
        self.conclude(watch)?;
        Ok((self.trainer.into_model(), self.progress, Ended::Complete))
    }

    /// Logs and evaluates at the end of a run. A longer run does neither at this step, so the checkpoint is saved before.
    fn conclude(&mut self, watch: &mut dyn FnMut(Event<'_>)) -> Result<(), FinetuneError> {
        self.log(watch);
        if due(self.progress.step, self.control.eval_steps) { Ok(()) } else { self.evaluate(watch) }
    }

    /// Makes an update; the seconds that its passes and the optimizer took.
    fn update(&mut self, watch: &mut dyn FnMut(Event<'_>)) -> Result<f64, FinetuneError> {
        let before = self.progress.step;
        let update = self.task.update(before)?;
        if update.batches.is_empty() {
            self.progress.step = before + 1;
            self.health.see_loss(0.0).into_iter().for_each(|warning| watch(Event::Warned(warning)));
            return Ok(0.0);
        }
        let log = self.trainer.step(&update.batches);
        let step = before + 1;
        if !log.is_updated && !self.control.skip_nonfinite {
            let (loss, grad_norm, rows) = (log.loss, log.grad_norm, self.task.names(before));
            if self.trainer.optimizer().num_steps() == 0 {
                return Err(FinetuneError::BaseNotFinite { loss, grad_norm, rows });
            }
            let last_checkpoint = self.last_checkpoint.clone();
            return Err(FinetuneError::NotFinite { step, loss, grad_norm, rows, last_checkpoint });
        }
        self.progress.step = step;
        self.progress.num_tokens += update.num_tokens;
        if !log.is_updated {
            self.progress.num_skipped += 1;
            watch(Event::Skipped { step });
            return Ok(log.wall_s);
        }
        let report = T::report(&log);
        let loss = report.entries.first().map_or(log.loss, |(_, loss)| *loss);
        if let (0, Some((expected, tolerance))) = (before, self.task.initial_loss(&log.log))
            && (loss - expected).abs() > tolerance
        {
            return Err(FinetuneError::InitialLoss { found: loss, expected });
        }
        let warnings = [self.health.see_loss(loss), self.health.see_routers(&report.routers)];
        self.balance(&report);
        self.progress.window.add(report, log.grad_norm, log.learning_rate);
        watch(Event::Updated { step, loss, num_tokens: update.num_tokens, wall_s: log.wall_s });
        warnings.into_iter().flatten().for_each(|warning| watch(Event::Warned(warning)));
        Ok(log.wall_s)
    }

    /// Moves the bias of routers.
    fn balance(&mut self, report: &Report) {
        let rate = self.settings.router_bias_update_rate;
        if rate > 0.0 {
            self.progress.router_bias.update(&report.routers, rate);
            let layers = self.progress.router_bias.layers();
            self.trainer.map_model(|model| model.with_selection_bias(layers));
        }
    }

    fn log(&mut self, watch: &mut dyn FnMut(Event<'_>)) {
        if self.progress.window.is_empty() {
            return;
        }
        let Progress { step, num_tokens, .. } = self.progress;
        let bias = (self.settings.router_bias_update_rate > 0.0).then(|| self.progress.router_bias.largest());
        let window = std::mem::take(&mut self.progress.window);
        self.push(window.entry(step, self.task.epoch(step), num_tokens, bias), watch);
    }

    fn evaluate(&mut self, watch: &mut dyn FnMut(Event<'_>)) -> Result<(), FinetuneError> {
        // As the model is written: without the bias of its routers.
        let model = self.trainer.model().clone().no_grad().with_selection_bias(&[]);
        let Some(loss) = self.task.evaluate(&model)? else { return Ok(()) };
        let Progress { step, num_tokens, best, .. } = self.progress;
        if loss.is_finite() && best.is_none_or(|(best, _)| loss < best) {
            self.progress.best = Some((loss, step));
            self.progress.best_checkpoint = self.control.save_best.then_some(step);
            self.progress.num_evals_since_best = 0;
        } else {
            self.progress.num_evals_since_best += 1;
        }
        self.push(eval_entry(loss, step, self.task.epoch(step), num_tokens), watch);
        Ok(())
    }

    fn push(&mut self, entry: LogEntry, watch: &mut dyn FnMut(Event<'_>)) {
        self.progress.history.push(entry);
        let entry = self.progress.history.last().expect("pushed");
        let written = if self.is_log_behind { self.begin_log() } else { self.append_to_log(entry) };
        watch(Event::Logged(entry));
        let was_behind = std::mem::replace(&mut self.is_log_behind, written.is_err());
        if let Some(error) = written.err().filter(|_| !was_behind) {
            watch(Event::LogFailed(error));
        }
    }

    fn append_to_log(&self, entry: &LogEntry) -> Result<(), FinetuneError> {
        let path = self.checkpoints.directory().join(LOG);
        let mut file = OpenOptions::new().append(true).open(&path).map_err(FileError::io(&path))?;
        Ok(file.write_all(to_jsonl(std::slice::from_ref(entry)).as_bytes()).map_err(FileError::io(&path))?)
    }

    /// Writes the whole log: at the start without lines of updates that will be repeated.
    fn begin_log(&self) -> Result<(), FinetuneError> {
        let path = self.checkpoints.directory().join(LOG);
        Ok(write_file_atomically(&path, to_jsonl(&self.progress.history).as_bytes())?)
    }

    fn save(&mut self, watch: &mut dyn FnMut(Event<'_>)) -> Result<PathBuf, FinetuneError> {
        let (model, optimizer) = (self.trainer.model(), self.trainer.optimizer());
        let saved = &mut self.saved;
        let path = self.checkpoints.save(model, optimizer, self.settings, &self.progress, self.sidecar, saved)?;
        watch(Event::Saved(&path));
        self.last_checkpoint = Some(path.clone());
        Ok(path)
    }
}

fn due(step: usize, interval: Option<usize>) -> bool {
    interval.is_some_and(|interval| step.is_multiple_of(interval))
}
