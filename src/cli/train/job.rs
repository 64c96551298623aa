//! Shared steps of the training commands: open the base, train, write, report.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::TrainingArgs;
use super::args::{EvalStrategyArg, ResumeArg};
use super::changes::in_words;
use super::forecast::forecast;
use super::operations::Operations;
use super::progress::{Summary, Watcher};
use super::settings::Inputs;
use super::space;
use super::titles::titles;
use super::utilization::Utilization;
use crate::cli::failure::Failure;
use crate::cli::grow::grown;
use crate::cli::{console, hub, interrupt, output, run_info};
use crate::data::Example;
use crate::device::{Device, device};
use crate::finetune::{
    Checkpoints, Curves, Ended, Event, FinetuneError, Job, LogEntry, Maker, Progress, Resumed, RowKind, Settings,
    Start, Task,
};
use crate::formats::CheckpointError;
use crate::formats::hf::HfOptions;
use crate::kernel::recompute;
use crate::output::commit::{Destination, Existing, PartialDirectory, check_apart};
use crate::output::disk::{Disk, absolute, disk};
use crate::profile::peak::product_flops_per_s;
use crate::profile::system_memory::{peak_rss_bytes, rss_bytes};
use crate::tokenizer::{ChatTemplate, Tokenizer};
use crate::train::Dpo;
use crate::upscale::{Growth, Request, Sources, model_record, parents};
use crate::weights::{Dtype, WeightSource};

/// A base to train, and its checked output.
pub(super) struct Opened<'a> {
    args: &'a TrainingArgs,
    disk: Arc<dyn Disk>,
    out: Destination,
    sources: Sources,
    checkpoints: Checkpoints,
    /// A device that records gradients.
    device: Device,
}

impl<'a> Opened<'a> {
    /// Opens the base and checks the output.
    pub(super) fn new(base: &str, args: &'a TrainingArgs) -> Result<Self, Failure> {
        // Training stops by itself after a signal, with a checkpoint: the disk must not fail then.
        let disk = disk();
        let out = absolute(&args.out)?;
        let destination = Destination::check(&*disk, &out, existing(args), &mut |_| ())?;
        if args.eval_strategy == Some(EvalStrategyArg::No) && !args.eval_data.is_empty() {
            return Err(Failure::usage("--eval-data with --eval-strategy no, expected one of them"));
        }
        let device = device(&args.device)?.autodiff();
        if args.gradient_checkpointing && !recompute::has_kernel(&device) {
            let found = &args.device;
            return Err(Failure::invalid(format_args!(
                "--gradient-checkpointing: found device {found}, expected flex"
            )));
        }
        let request = Request::read(&*disk, base)?;
        if request.is_merge() {
            return Err(Failure::usage(format_args!("{base:?} is a mergekit file, expected a model: grow it first")));
        }
        if args.use_peft && !args.growth.options().is_empty() {
            return Err(Failure::usage(
                "--use-peft trains an adapter of a model that others can load: grow the base first",
            ));
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
        let checkpoints =
            Checkpoints::new(disk.clone(), &folder, Some(args.save_total_limit), Maker::this(&args.device));
        for input in [base.path(), &out] {
            check_apart(&*disk, &folder, input)?;
        }
        let resumes = args.resumes() && resumed_from(args)?.is_none_or(|path| path.parent() == Some(&folder));
        if !resumes && std::fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Failure::invalid(format_args!(
                "{folder:?} holds a run (--resume continues it, --checkpoints names another folder; or remove it)"
            )));
        }
        Ok(Self { args, disk, out: destination, sources, checkpoints, device })
    }

    /// The base, grown as asked.
    pub(super) fn growth(&self) -> Result<Growth<'_>, Failure> {
        let growth = grown(&self.sources.bases[0], &self.sources.readable_names()[0], &self.args.growth)?;
        growth.source.config().computable().map_err(Failure::invalid)?;
        if self.args.router_bias_update_rate > 0.0 && growth.source.config().moe.is_none() {
            return Err(Failure::invalid(
                "--router-bias-update-rate: found a model without experts, expected a mixture",
            ));
        }
        self.args.check_adapter(growth.source.config())?;
        growth.warnings.iter().for_each(|warning| console::tell(format_args!("warning: {warning}")));
        Ok(growth)
    }

    /// The tokenizer of the base.
    pub(super) fn tokenizer(&self) -> Result<Tokenizer, Failure> {
        Ok(self.sources.tokenizer().tokenizer()?)
    }

    /// The chat template of the base, if it has one.
    pub(super) fn chat_template(&self) -> Result<Option<ChatTemplate>, Failure> {
        match self.sources.tokenizer().chat_template(None) {
            Err(CheckpointError::NoChatTemplate { .. }) => Ok(None),
            template => Ok(Some(template?)),
        }
    }

    /// The settings of a run, with a hash of the base (its weights, its config, the growths), and the base as receipts record it.
    pub(super) fn settings(
        &self,
        growth: &Growth<'_>,
        max_length: usize,
        inputs: Inputs,
        dpo: Option<Dpo>,
    ) -> Result<(Settings, Vec<Value>), Failure> {
        self.check_evaluation(inputs.num_heldout)?;
        let parents = parents(&self.sources, &mut |_| ())?;
        let record = model_record(&parents, growth);
        let base = blake3::hash(record.to_string().as_bytes()).to_hex().to_string();
        let settings = self.args.settings(&growth.source, base, inputs, max_length, dpo)?;
        Ok((settings, parents))
    }

    /// The run on the device that the options name.
    pub(super) fn job<'j>(
        &'j self,
        rows: RowKind,
        growth: &'j Growth<'j>,
        settings: &'j Settings,
        parents: &'j [Value],
    ) -> Job<'j> {
        Job {
            disk: &self.disk,
            sources: &self.sources,
            parents,
            growth,
            rows,
            settings,
            control: self.args.control(),
            checkpoints: &self.checkpoints,
            device: self.device.clone(),
            gradient_checkpointing: self.args.gradient_checkpointing,
        }
    }

    /// Checks that the model has all ids.
    pub(super) fn check_ids<'i>(&self, mut ids: impl Iterator<Item = &'i u32>) -> Result<(), Failure> {
        let vocab_size = self.sources.bases[0].config().vocab_size;
        match ids.find(|id| **id as usize >= vocab_size) {
            None => Ok(()),
            Some(id) => Err(Failure::invalid(format_args!(
                "the tokenizer gives id {id}, expected below vocab_size {vocab_size} of the model"
            ))),
        }
    }

    /// Hash of examples and of how they are arranged.
    pub(super) fn hash<'e>(&self, examples: impl Iterator<Item = &'e Example>, arrangement: &str) -> String {
        let mut hash = blake3::Hasher::new();
        hash.update(arrangement.as_bytes());
        for Example { ids, trained } in examples {
            hash.update(&(ids.len() as u64).to_le_bytes());
            for (id, trained) in ids.iter().zip(trained) {
                hash.update(&id.to_le_bytes()).update(&[u8::from(*trained)]);
            }
        }
        hash.finalize().to_hex().to_string()
    }

    /// Hash of the examples of `--eval-data`.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn evaluated_hash<'e>(&self, examples: impl Iterator<Item = &'e Example>) -> Result<String, Failure> {
        let mut examples = examples.peekable();
        if examples.peek().is_none() {
            return Err(Failure::invalid(
                "--eval-data: found no row with a trained token within --max-length, expected one",
            ));
        }
        Ok(self.hash(examples, "evaluated"))
    }

    /// Loads what the run starts from, the grown base or a checkpoint, after checking that OUT can be written.
    pub(super) fn start(&self, job: &Job<'_>, longest_row: usize) -> Result<Start, Failure> {
        space::check_writable(&self.disk, self.out.clone())?;
        let resident = rss_bytes().unwrap_or(0);
        let start = self.start_silently(job)?;
        space::check_free(job, self.out.path(), &start, self.options())?;
        console::tell(forecast(job, &start.model, longest_row, resident));
        Ok(start)
    }

    fn start_silently(&self, job: &Job<'_>) -> Result<Start, Failure> {
        if !self.args.resumes() {
            return Ok(job.start(None)?);
        }
        if let Some(path) = resumed_from(self.args)? {
            let resumed = job.resumed_from(&path)?;
            self.tell_resumed(&resumed);
            return self.start_from(job, Some(resumed));
        }
        let mut refuse =
            |path: &Path, reason: String| console::tell(format_args!("note: {path:?} is not used: {reason}"));
        let resumed = job.resumed(&mut refuse)?;
        match &resumed {
            Some(resumed) => self.tell_resumed(resumed),
            None => console::tell(format_args!(
                "note: {:?} holds no checkpoint: starting from scratch",
                job.checkpoints.directory()
            )),
        }
        self.start_from(job, resumed)
    }

    fn start_from(&self, job: &Job<'_>, resumed: Option<Resumed>) -> Result<Start, Failure> {
        let best = resumed.as_ref().and_then(|resumed| resumed.progress.best);
        if let Some((loss, step)) = best
            && self.args.load_best_model_at_end
            && !job.checkpoints.path(step).is_dir()
        {
            console::tell(format_args!(
                "note: the best evaluation, {loss:.4} after update {step}, has no checkpoint: it is ignored when the best model is chosen"
            ));
        }
        Ok(job.start(resumed)?)
    }

    /// Says which checkpoint continues, and that it may not do so to the bit if another program or device made it.
    fn tell_resumed(&self, resumed: &Resumed) {
        console::tell(format_args!("continuing from {}", resumed.path.display()));
        let differences = resumed.made_by.as_ref().map(|saved| self.checkpoints.maker().differences_from(saved));
        if let Some(differences) = differences.filter(|differences| !differences.is_empty()) {
            console::tell(format_args!(
                "warning: another program or device made this checkpoint ({}): the weights may differ in their last bits from those \
                 of a run that was never stopped",
                differences.join(", ")
            ));
        }
    }

    /// The peak of the device, as given or measured.
    fn peak_flops_per_s(&self, job: &Job<'_>) -> f64 {
        if let Some(tflops) = self.args.peak_tflops {
            return tflops * 1e12;
        }
        let dtype = if job.settings.bf16 { Dtype::Bfloat16 } else { Dtype::Float32 };
        let peak = product_flops_per_s(dtype, &job.device);
        console::detail(format_args!("the device multiplies at {:.3} TFLOP/s", peak / 1e12));
        peak
    }

    /// Trains and writes the model.
    pub(super) fn run<T: Task>(&self, job: &Job<'_>, task: &T, start: Start) -> Result<(), Failure> {
        let settings = job.settings;
        let directory = self.checkpoints.directory();
        let operations = Operations::new(job.growth.source.config(), settings);
        let utilization = Utilization::new(operations, self.peak_flops_per_s(job));
        let mut watcher = Watcher::new(settings, start.progress.step, utilization);
        let mut curves = Curves::new(directory, titles(job), &start.progress.history, self.args.plot);
        interrupt::catch();
        let stop = || interrupt::caught().is_some();
        let (model, progress, ended) = job.run(task, start, &stop, &mut |event| {
            let failed = if let Event::Logged(entry) = &event { curves.push(entry) } else { None };
            watcher.show(event);
            failed.into_iter().for_each(|failed| watcher.line(format!("warning: {failed}")));
        })?;
        let summary = watcher.finish();
        if let Err(failed) = curves.draw() {
            console::tell(format_args!("warning: {failed}"));
        }
        if let Ended::Stopped(checkpoint) = ended {
            let why =
                interrupt::caught().map_or("time is over".to_owned(), |signal| format!("stopped by signal {signal}"));
            return Err(Failure::runtime(format_args!(
                "{why} after update {} of {}; {} holds its state: the same command with --resume continues it",
                progress.step,
                settings.schedule.num_steps,
                checkpoint.display()
            )));
        }
        let model = if self.args.load_best_model_at_end { job.best(model, &progress)? } else { model };
        let destination = Destination::check(&*self.disk, self.out.path(), existing(self.args), &mut |_| ())?;
        let partial = PartialDirectory::at(self.disk.clone(), destination)?;
        job.write(partial, &model, &progress, self.options(), run_info::command())?;
        self.report(&progress, &summary)
    }

    /// How the trained model is written.
    fn options(&self) -> HfOptions {
        HfOptions { dtype: Some(self.args.dtype.dtype()), ..HfOptions::default() }
    }

    /// Refuses options that an evaluation decides if nothing is held out, and says so unless none was to be.
    fn check_evaluation(&self, num_heldout: usize) -> Result<(), Failure> {
        if num_heldout > 0 || self.args.evaluation_interval().is_none() && self.args.holdout().share == 0.0 {
            return Ok(());
        }
        let reason = "no row is held out to evaluate on, expected --eval-data or a larger --test-split-size";
        let is_best = self.args.load_best_model_at_end;
        let options = [
            (is_best, "--load-best-model-at-end"),
            (self.args.early_stopping_patience.is_some(), "--early-stopping-patience"),
        ];
        if let Some((_, option)) = options.into_iter().find(|(is_given, _)| *is_given) {
            return Err(Failure::invalid(reason).for_option(option));
        }
        console::tell(format_args!("note: {reason}"));
        Ok(())
    }

    fn report(&self, progress: &Progress, summary: &Summary) -> Result<(), Failure> {
        let last = |key: &str| progress.history.iter().rev().find_map(|entry: &LogEntry| entry.get(key).cloned());
        if self.args.json {
            let summary = json!({
                "out": self.args.out.to_string_lossy(),
                "steps": progress.step,
                "num_tokens": progress.num_tokens,
                "num_skipped": progress.num_skipped,
                "train_loss": last("loss"),
                "eval_loss": last("eval_loss"),
                "train_runtime": summary.runtime_s,
                "train_tokens_per_second": summary.tokens_per_second,
                "mfu": summary.mfu,
                "loop_overhead": summary.loop_overhead,
                "peak_memory_bytes": peak_rss_bytes(),
                "checkpoints": self.checkpoints.directory().to_string_lossy(),
            });
            return output::print(&format!("{summary:#}\n"));
        }
        let loss =
            |key: &str| last(key).as_ref().and_then(Value::as_f64).map_or("-".to_owned(), |loss| format!("{loss:.4}"));
        if progress.num_skipped > 0 {
            console::tell(format_args!("warning: {} updates were not finite and left out", progress.num_skipped));
        }
        let rows = [
            ("updates", progress.step.to_string()),
            ("tokens", progress.num_tokens.to_string()),
            ("loss", loss("loss")),
            ("held-out loss", loss("eval_loss")),
            ("tokens/s", format!("{:.0}", summary.tokens_per_second)),
            ("MFU", format!("{:.0} %", 100.0 * summary.mfu)),
            ("loop overhead", format!("{:.1} %", 100.0 * summary.loop_overhead)),
            ("peak memory", peak_rss_bytes().map_or("-".to_owned(), output::size)),
            ("seconds", format!("{:.1}", summary.runtime_s)),
        ];
        let table: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
        output::print(&format!("{}wrote {}\n", output::aligned(&table), self.args.out.display()))
    }
}

/// The checkpoint that the options name.
fn resumed_from(args: &TrainingArgs) -> Result<Option<PathBuf>, Failure> {
    match &args.resume_from_checkpoint {
        Some(ResumeArg::From(path)) => Ok(Some(absolute(path)?)),
        _ => Ok(None),
    }
}

fn existing(args: &TrainingArgs) -> Existing {
    Existing::of(args.force, args.discard_modified)
}

impl From<FinetuneError> for Failure {
    fn from(error: FinetuneError) -> Self {
        match error {
            FinetuneError::Weights(error) => error.into(),
            FinetuneError::Output(error) => (*error).into(),
            FinetuneError::Checkpoint(error) => (*error).into(),
            FinetuneError::Changed { path, changes } => {
                Self::invalid(format_args!("{path:?} was saved by a run with other settings:{}", in_words(&changes)))
            }
            _ => Self::of_kind(error.kind(), error),
        }
    }
}
