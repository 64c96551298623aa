//! `dpo`: direct preference optimization.

use std::path::PathBuf;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Args, ValueEnum};

use super::TrainingArgs;
use super::args::brief;
use super::data::{self, DataArg};
use super::job::Opened;
use super::progress::Counter;
use super::sample::{tell_formats, tell_overlap, tell_sample, tell_skipped};
use super::settings::{Input, Inputs};
use crate::cli::failure::Failure;
use crate::cli::values::{non_negative_real, positive_real};
use crate::data::source::SkippedRows;
use crate::data::{Example, PreferencePair, RecordEncoder, Truncation};
use crate::finetune::{
    DataSettings, DataSource, Dataset, Encoded, Pair, Preference, RowKind, TrainedItems, read_records, record_files,
    sample,
};
use crate::train::{Dpo, DpoLoss};
use crate::weights::WeightSource;

/// Align with preferences by DPO
///
/// Formats are recognized: TRL's (prompt, chosen, rejected; the prompt may be implicit), ShareGPT. The reference is the base; its
/// log-probabilities are computed before the first update, so that one model is in memory. OUT and checkpoints are as for
/// train.
#[derive(Debug, Clone, Args)]
#[command(mut_args(brief))]
#[command(mut_arg("num_train_epochs", |arg| arg.default_value("3")), mut_arg("learning_rate", |arg| arg.default_value("1e-6")))]
pub struct DpoArgs {
    /// The base: a Hugging Face directory, a .gguf file, or an id on the hub
    pub base: String,
    /// Files of records, directories, patterns: .jsonl, .json, .csv, .parquet, .arrow
    ///
    /// DATA=2 visits each record twice per epoch, DATA=0.5 half of them.
    #[arg(long, alias = "dataset-name", value_name = "DATA", required = true, num_args = 1.., value_parser = PathBufValueParser::new().try_map(DataArg::read), help_heading = "Data")]
    pub data: Vec<DataArg>,
    /// Strength of the KL constraint to the reference
    #[arg(long, value_name = "X", default_value_t = 0.1, value_parser = positive_real, help_heading = "Loss")]
    pub beta: f64,
    /// sigmoid, ipo, hinge or robust
    #[arg(long, value_enum, value_name = "TYPE", hide_possible_values = true, default_value_t = LossArg::Sigmoid, help_heading = "Loss")]
    pub loss_type: LossArg,
    /// Probability that a label is wrong, for sigmoid (conservative DPO) and robust
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = non_negative_real, help_heading = "Loss")]
    pub label_smoothing: f64,
    /// Accepted for compatibility with TRL; always enabled
    #[arg(long, alias = "precompute-ref-logps", hide = true)]
    pub precompute_ref_log_probs: bool,
    /// Options that the training commands share.
    #[command(flatten)]
    pub training: TrainingArgs,
}

/// `--loss-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LossArg {
    /// `−ln σ(β·h)`.
    Sigmoid,
    /// `(h − 1/(2β))²`.
    Ipo,
    /// `max(0, 1 − β·h)`.
    Hinge,
    /// Unbiased under flipped labels.
    Robust,
}

/// Aligns with preferences.
///
/// # Errors
/// Any invalid input, before any work; then errors of training and I/O.
pub fn run(args: &DpoArgs) -> Result<(), Failure> {
    if args.label_smoothing >= 0.5 {
        return Err(Failure::usage(format_args!("--label-smoothing is {}, expected below 0.5", args.label_smoothing)));
    }
    let opened = Opened::new(&args.base, &args.training)?;
    let growth = opened.growth()?;
    let max_length = args.training.max_length_of_records(growth.source.config())?;
    let tokenizer = opened.tokenizer()?;
    let template = opened.chat_template()?;
    let encoder = RecordEncoder::new(&tokenizer, template.as_ref());
    let mut skipped = SkippedRows::up_to(args.training.skip_bad);
    let mut read = |paths: &[PathBuf]| -> Result<Dataset<[Example; 2]>, Failure> {
        let dataset = read_records(&record_files(paths)?, true, &mut skipped, |record| {
            let pair: PreferencePair = encoder.preference_pair(record)?;
            let mut sides = pair.examples();
            let lacks_target = |sides: &[Example; 2]| sides.iter().any(|side| side.num_trained() == 0);
            if lacks_target(&sides) {
                return Ok(Encoded::Untrained);
            }
            let is_cut = sides.iter().any(|side| side.ids.len() > max_length);
            sides.iter_mut().for_each(|side| side.truncate(max_length, Truncation::KeepStart));
            Ok(match is_cut {
                true if lacks_target(&sides) || sides[0].ids == sides[1].ids => Encoded::CutOff,
                true => Encoded::Cut(sides),
                false => Encoded::Whole(sides),
            })
        })?;
        opened.check_ids(dataset.items.iter().flatten().flat_map(|example| &example.ids))?;
        tell_formats(&dataset);
        Ok(dataset)
    };
    let (mut pairs, mut heldout, mut inputs) = (Vec::new(), Vec::new(), Inputs::default());
    let pair = |([chosen, rejected], name): ([Example; 2], String)| Pair { chosen, rejected, name };
    for DataSource { paths, weight } in data::sources(&args.data)? {
        let mut dataset = read(&paths)?;
        tell_sample(dataset.items.iter().flatten(), &tokenizer)?;
        let split = args.training.holdout().split(dataset.items.len() as u64, &paths[0])?;
        let hash = opened.hash(dataset.items.iter().flatten(), &split.num_train().to_string());
        let num_tokens: usize = dataset.items.iter().flatten().map(|example| example.ids.len()).sum();
        let row_tokens = num_tokens.div_ceil(dataset.items.len()) as u64;
        heldout.extend(dataset.hold_out(&split).into_iter().map(pair));
        pairs.extend(dataset.items.into_iter().zip(dataset.names).map(pair));
        inputs.sources.push(Input { settings: DataSettings { num_rows: split.num_train(), weight, hash }, row_tokens });
    }
    if !args.training.eval_data.is_empty() {
        let Dataset { items, names, .. } = read(&args.training.eval_data)?;
        let evaluated = sample(items.into_iter().zip(names).collect(), args.training.max_eval_samples);
        inputs.evaluated = Some(opened.evaluated_hash(evaluated.iter().flat_map(|(sides, _)| sides))?);
        heldout = evaluated.into_iter().map(pair).collect();
    }
    tell_skipped(&skipped);
    if !heldout.is_empty() {
        let mut trained = TrainedItems::default();
        pairs.iter().for_each(|pair| trained.insert([&pair.chosen, &pair.rejected]));
        let num_shared = trained.count(heldout.iter().map(|pair| [&pair.chosen, &pair.rejected]));
        tell_overlap(num_shared, heldout.len(), "records");
    }
    let loss = match args.loss_type {
        LossArg::Sigmoid => DpoLoss::Sigmoid,
        LossArg::Ipo => DpoLoss::Ipo,
        LossArg::Hinge => DpoLoss::Hinge,
        LossArg::Robust => DpoLoss::Robust,
    };
    let router = args.training.router_loss();
    let dpo = Dpo { loss, beta: args.beta, label_smoothing: args.label_smoothing, router };
    inputs.num_heldout = heldout.len();
    let (settings, parents) = opened.settings(&growth, max_length, inputs, Some(dpo))?;
    let job = opened.job(RowKind::Examples, &growth, &settings, &parents);
    let longest_row = pairs.iter().map(Pair::longest).max().unwrap_or(0);
    let mut start = opened.start(&job, longest_row)?;
    let reference = std::mem::take(&mut start.progress.reference);
    let mut task = Preference::new(&pairs, &heldout, reference, &settings, &job.device);
    if !task.is_complete() {
        // A run that was lengthened visits more pairs than its checkpoint has.
        let base = if start.progress.step > 0 { Some(job.start(None)?.model) } else { None };
        let mut counter = Counter::new("reference log-probabilities of pairs");
        let reference = base.as_ref().unwrap_or(&start.model);
        task.precompute(reference, &mut |num_done, of| counter.show(num_done, of))?;
    }
    start.progress.reference = task.reference().clone();
    opened.run(&job, &task, start)
}
