//! A training command from its base to its output.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use serde_json::json;

use super::TrainingArgs;
use super::progress::Watcher;
use crate::cli::failure::Failure;
use crate::cli::grow::grown;
use crate::cli::{console, hub, interrupt, output, run_info};
use crate::device::device;
use crate::figure::TrainingCurve;
use crate::finetune::{
    Change, Checkpoints, Ended, Event, FinetuneError, LogEntry, Progress, Records, Resumed, Run, Settings, Task,
    Trained, write_model,
};
use crate::formats::Checkpoint;
use crate::formats::hf::HfOptions;
use crate::model::AnyDecoder;
use crate::output::commit::{Destination, Existing, PartialDirectory, check_apart};
use crate::output::disk::{Disk, absolute, disk};
use crate::profile::flops::count_parameters;
use crate::profile::memory::{activation_bytes, train_state_bytes};
use crate::tokenizer::Tokenizer;
use crate::train::{AdamW, Schedule};
use crate::upscale::{Growth, Provenance, Request, Sources};
use crate::weights::WeightSource;

/// A base to train, its output checked.
pub(super) struct Job<'a> {
    args: &'a TrainingArgs,
    disk: Arc<dyn Disk>,
    out: PathBuf,
    pub(super) sources: Sources,
    checkpoints: Checkpoints,
}

impl<'a> Job<'a> {
    /// Opens the base and checks the output.
    pub(super) fn open(base: &str, args: &'a TrainingArgs) -> Result<Self, Failure> {
        // Training stops by itself after a signal, with a checkpoint: the disk must not fail then.
        let disk = disk();
        let out = absolute(&args.out)?;
        Destination::check(&*disk, &out, existing(args), &mut |_| ())?;
        let request = Request::read(&*disk, base)?;
        if request.is_merge() {
            return Err(Failure::usage(format_args!("{base:?} is a mergekit file, expected a model: grow it first")));
        }
        let sources = Sources::open(&disk, request, hub::locate)?;
        let base = &sources.bases[0];
        check_apart(&*disk, &out, base.path())?;
        base.notices().iter().for_each(|notice| console::tell(format_args!("note: {notice}")));
        let default = || {
            let name = out.file_name().unwrap_or_default().to_string_lossy();
            out.with_file_name(format!("{name}-checkpoints"))
        };
        let folder = args.checkpoints.as_deref().map_or_else(|| Ok(default()), absolute)?;
        let checkpoints = Checkpoints::new(disk.clone(), &folder, Some(args.save_total_limit));
        if !args.resume && !checkpoints.steps()?.is_empty() {
            return Err(Failure::invalid(format_args!(
                "{folder:?} holds checkpoints of a run (--resume continues it; --checkpoints names another folder)"
            )));
        }
        Ok(Self { args, disk, out, sources, checkpoints })
    }

    /// The base, grown as asked.
    pub(super) fn growth(&self) -> Result<Growth<'_>, Failure> {
        let growth = grown(&self.sources.bases[0], &self.sources.names[0], &self.args.growth)?;
        growth.source.config().computable().map_err(Failure::invalid)?;
        growth.warnings.iter().for_each(|warning| console::tell(format_args!("warning: {warning}")));
        Ok(growth)
    }

    /// The tokenizer of the base.
    pub(super) fn tokenizer(&self) -> Result<Tokenizer, Failure> {
        let checkpoint = self.sources.tokenizer();
        Ok(Tokenizer::from_json(&checkpoint.tokenizer_json()?, checkpoint.path())?)
    }

    pub(super) fn device(&self) -> Result<Device, Failure> {
        Ok(device(&self.args.device)?)
    }

    /// The checkpoint to continue from, if one is asked for.
    pub(super) fn resumed(&self, settings: &Settings) -> Result<Option<Resumed>, Failure> {
        if !self.args.resume {
            return Ok(None);
        }
        let mut refuse =
            |path: &Path, reason: String| console::tell(format_args!("note: {path:?} is not used: {reason}"));
        let Some(resumed) = self.checkpoints.newest(&mut refuse)? else {
            console::tell(format_args!("note: {:?} holds no checkpoint: starting anew", self.checkpoints.directory()));
            return Ok(None);
        };
        let changes = settings.changes_from(&resumed.settings);
        if !changes.is_empty() {
            return Err(FinetuneError::Changed { path: resumed.path, changes }.into());
        }
        console::tell(format_args!("continuing from {}", resumed.path.display()));
        Ok(Some(resumed))
    }

    /// Trains and writes the model.
    pub(super) fn run<T: Task>(
        &self,
        growth: &Growth<'_>,
        settings: &Settings,
        task: &T,
        device: &Device,
    ) -> Result<(), Failure> {
        let resumed = self.resumed(settings)?;
        self.run_from(resumed, growth, settings, task, device)
    }

    /// As [`run`](Self::run), from a checkpoint that was looked up before.
    pub(super) fn run_from<T: Task>(
        &self,
        resumed: Option<Resumed>,
        growth: &Growth<'_>,
        settings: &Settings,
        task: &T,
        device: &Device,
    ) -> Result<(), Failure> {
        let config = growth.source.config();
        console::tell(forecast(config, settings));
        let sidecar = self.sources.sidecar(&*self.disk)?;
        let groups = settings.param_groups().map_err(FinetuneError::from)?;
        let (model, optimizer, progress) = match resumed {
            None => (AnyDecoder::load(&growth.source, device)?, AdamW::new(settings.adamw), Progress::default()),
            Some(resumed) => {
                let model = self.load(&resumed.path, device)?;
                let state = resumed.path.join("optimizer.safetensors");
                let optimizer = AdamW::read(settings.adamw, &groups.freeze(model.clone()), &state);
                (model, optimizer.map_err(FinetuneError::from)?, resumed.progress)
            }
        };
        let start = (groups.freeze(model), optimizer, progress);
        interrupt::catch();
        let mut watcher = Watcher::new(settings.schedule.num_steps, start.2.step);
        let mut records =
            Records::new(self.checkpoints.directory(), self.curve(settings), &start.2.history, self.args.plot);
        let run = Run::new(task, settings, self.args.control(), &self.checkpoints, &sidecar, start)?;
        let stop = || interrupt::caught().is_some();
        let (model, progress, ended) = run.finish(&stop, &mut |event| {
            let failed = if let Event::Logged(entry) = &event { records.push(entry) } else { None };
            watcher.show(event);
            failed.into_iter().for_each(|failed| watcher.line(format!("warning: {failed}")));
        })?;
        let summary = watcher.finish();
        if let Err(failed) = records.draw() {
            console::tell(format_args!("warning: {failed}"));
        }
        if let Ended::Stopped(checkpoint) = ended {
            let why =
                interrupt::caught().map_or("time is over".to_owned(), |signal| format!("stopped by signal {signal}"));
            return Err(Failure::runtime(format_args!(
                "{why} after step {} of {}; {} has it all: the same command with --resume continues it",
                progress.step,
                settings.schedule.num_steps,
                checkpoint.display()
            )));
        }
        let best = progress.best.filter(|(_, step)| self.args.load_best_model_at_end && *step != progress.step);
        let model = match best {
            Some((_, step)) if self.checkpoints.path(step).exists() => {
                self.load(&self.checkpoints.path(step), device)?
            }
            _ => model,
        };
        let destination = Destination::check(&*self.disk, &self.out, existing(self.args), &mut |_| ())?;
        let partial = PartialDirectory::at(self.disk.clone(), destination)?;
        let trained = Trained { sources: &self.sources, growth, model: &model, settings, progress: &progress };
        let options = HfOptions { dtype: Some(self.args.dtype.dtype()), ..HfOptions::default() };
        let provenance = Provenance { command: run_info::command(), seed: settings.seed };
        write_model(&self.disk, partial, &trained, options, &provenance, &mut |_| ())?;
        let last = |key: &str| progress.history.iter().rev().find_map(|entry: &LogEntry| entry.get(key).cloned());
        if self.args.json {
            let summary = json!({
                "out": self.args.out.to_string_lossy(),
                "steps": progress.step,
                "num_tokens": progress.num_tokens,
                "train_loss": last("loss"),
                "eval_loss": last("eval_loss"),
                "train_runtime": summary.runtime_s,
                "train_tokens_per_second": summary.tokens_per_second,
                "checkpoints": self.checkpoints.directory().to_string_lossy(),
            });
            return output::print(&format!("{summary:#}\n"));
        }
        let text = |value: Option<serde_json::Value>| {
            value.and_then(|v| v.as_f64()).map_or("-".to_owned(), |v| format!("{v:.4}"))
        };
        let rows = [
            ("updates", progress.step.to_string()),
            ("tokens", progress.num_tokens.to_string()),
            ("loss", text(last("loss"))),
            ("held-out loss", text(last("eval_loss"))),
            ("tokens/s", format!("{:.0}", summary.tokens_per_second)),
            ("seconds", format!("{:.1}", summary.runtime_s)),
        ];
        let table: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
        output::print(&format!("{}wrote {}\n", output::aligned(&table), self.args.out.display()))
    }

    fn curve(&self, settings: &Settings) -> TrainingCurve {
        let (what, unit) = match settings.dpo {
            None => ("Next-token loss", "nats per token"),
            Some(_) => ("Preference loss", "per pair"),
        };
        let Schedule { peak, num_steps, .. } = settings.schedule;
        let subtitle = format!(
            "{num_steps} updates of {} rows of at most {} tokens, peak learning rate {peak}",
            settings.batch_size, settings.max_length
        );
        TrainingCurve {
            title: format!("{what} of {}", self.sources.names[0]),
            subtitle,
            unit,
            ..TrainingCurve::default()
        }
    }

    fn load(&self, path: &Path, device: &Device) -> Result<AnyDecoder, Failure> {
        Ok(AnyDecoder::load(&Checkpoint::open_on(self.disk.clone(), path)?, device)?)
    }
}

fn existing(args: &TrainingArgs) -> Existing {
    if args.force { Existing::Replace } else { Existing::Keep }
}

/// What the run is about to do, before the first update.
fn forecast(config: &crate::config::DecoderConfig, settings: &Settings) -> String {
    let parameters = count_parameters(config);
    let (batch, length) = (settings.micro_batch_size as u64, settings.max_length as u64);
    let bytes = train_state_bytes(config) + activation_bytes(config, batch, length, 4);
    format!(
        "{} total parameters, {} active; {} updates of {} rows of at most {} tokens; at least {} of memory",
        output::short_count(parameters.total.into()),
        output::short_count(parameters.active.into()),
        settings.schedule.num_steps,
        settings.batch_size,
        settings.max_length,
        output::size(bytes),
    )
}

impl From<FinetuneError> for Failure {
    fn from(error: FinetuneError) -> Self {
        match error {
            FinetuneError::Weights(error) => error.into(),
            FinetuneError::Output(error) => error.into(),
            FinetuneError::Checkpoint(error) => error.into(),
            FinetuneError::Changed { ref changes, .. } => Self::invalid(format_args!("{error}{}", hint(changes))),
            _ => Self::of_kind(error.kind(), error),
        }
    }
}

fn hint(changes: &[Change]) -> &'static str {
    match changes.iter().any(|change| change.name == "data") {
        true => "\n(data is the hash of the tokens: a file of --data, or the tokenizer, has changed)",
        false => "",
    }
}
