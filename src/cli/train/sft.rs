//! `sft`: supervised fine-tuning.

use std::path::PathBuf;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Args, ValueEnum};

use super::TrainingArgs;
use super::args::brief;
use super::data::{self, DataArg};
use super::job::Opened;
use super::sample::{tell_formats, tell_overlap, tell_sample, tell_skipped};
use super::settings::{Input, Inputs};
use crate::cli::failure::Failure;
use crate::data::packing::{Segment, best_fit_decreasing, wrapped};
use crate::data::source::SkippedRows;
use crate::data::{Example, RecordEncoder, Truncation};
use crate::finetune::{
    Concatenated, DataSettings, DataSource, Dataset, Encoded, ExampleRows, LanguageModeling, RowKind, Rows,
    TrainedItems, read_records, record_files, sample,
};
use crate::weights::WeightSource;

/// Fine-tune on instructions: completions, chats
///
/// Formats are recognized: TRL's (text; prompt, completion; messages), Alpaca, ShareGPT. Messages go through the chat template
/// of the model. OUT and checkpoints are as for train.
#[derive(Debug, Clone, Args)]
#[command(mut_args(brief))]
#[command(mut_arg("num_train_epochs", |arg| arg.default_value("3")), mut_arg("learning_rate", |arg| arg.default_value("2e-5")))]
pub struct SftArgs {
    /// The base: a Hugging Face directory, a .gguf file, or an id on the hub
    pub base: String,
    /// Files of records, directories, patterns: .jsonl, .json, .csv, .parquet, .arrow, .txt
    ///
    /// DATA=2 visits each record twice per epoch, DATA=0.5 half of them.
    #[arg(long, alias = "dataset-name", value_name = "DATA", required = true, num_args = 1.., value_parser = PathBufValueParser::new().try_map(DataArg::read), help_heading = "Data")]
    pub data: Vec<DataArg>,
    /// Pack several examples into a row, without attention between them
    #[arg(long, help_heading = "Data")]
    pub packing: bool,
    /// bfd packs whole examples, best fit decreasing; wrapped joins and cuts them
    #[arg(long, value_enum, value_name = "STRATEGY", hide_possible_values = true, default_value_t = PackingArg::Bfd, help_heading = "Data")]
    pub packing_strategy: PackingArg,
    /// Train only the completion, where a record has a prompt and a completion
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, help_heading = "Data")]
    pub completion_only_loss: bool,
    /// Train only what the assistant says, where a record has messages
    #[arg(long, help_heading = "Data")]
    pub assistant_only_loss: bool,
    /// Options that the training commands share.
    #[command(flatten)]
    pub training: TrainingArgs,
}

/// `--packing-strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PackingArg {
    /// Best fit decreasing.
    Bfd,
    /// Joined and cut.
    Wrapped,
}

/// Fine-tunes on examples.
///
/// # Errors
/// Any invalid input, before any work; then errors of training and I/O.
pub fn run(args: &SftArgs) -> Result<(), Failure> {
    let opened = Opened::new(&args.base, &args.training)?;
    let growth = opened.growth()?;
    let max_length = args.training.max_length_of_records(growth.source.config())?;
    let tokenizer = opened.tokenizer()?;
    let template = opened.chat_template()?;
    let encoder = RecordEncoder {
        completion_only: args.completion_only_loss,
        assistant_only: args.assistant_only_loss,
        ..RecordEncoder::new(&tokenizer, template.as_ref())
    };
    let is_wrapped = args.packing && args.packing_strategy == PackingArg::Wrapped;
    let mut skipped = SkippedRows::up_to(args.training.skip_bad);
    let mut read = |paths: &[PathBuf]| -> Result<Dataset<Example>, Failure> {
        let dataset = read_records(&record_files(paths)?, false, &mut skipped, |record| {
            let mut example = encoder.example(record)?;
            if example.num_trained() == 0 {
                return Ok(Encoded::Untrained);
            }
            let is_cut = !is_wrapped && example.ids.len() > max_length;
            if is_cut {
                example.truncate(max_length, Truncation::KeepStart);
            }
            Ok(match is_cut {
                true if example.num_trained() == 0 => Encoded::CutOff,
                true => Encoded::Cut(example),
                false => Encoded::Whole(example),
            })
        })?;
        opened.check_ids(dataset.items.iter().flat_map(|example| &example.ids))?;
        tell_formats(&dataset);
        Ok(dataset)
    };
    let evaluated = |examples: Vec<Example>| {
        let cut = examples.into_iter().map(|mut example| {
            example.truncate(max_length, Truncation::KeepStart);
            example
        });
        cut.filter(|example| example.num_trained() > 0).map(|example| vec![example]).collect::<Vec<_>>()
    };
    let (mut rows, mut heldout, mut inputs) = (Concatenated::default(), Vec::new(), Inputs::default());
    let (mut longest_row, mut trained) = (0, TrainedItems::default());
    for DataSource { paths, weight } in data::sources(&args.data)? {
        let mut dataset = read(&paths)?;
        tell_sample(dataset.items.iter(), &tokenizer)?;
        let split = args.training.holdout().split(dataset.items.len() as u64, &paths[0])?;
        let mut arrangement = format!("{} {} {:?}", split.num_train(), args.packing, args.packing_strategy);
        if args.packing {
            arrangement += &format!(" {max_length}");
        }
        let hash = opened.hash(dataset.items.iter(), &arrangement);
        heldout.extend(evaluated(dataset.hold_out(&split).into_iter().map(|(example, _)| example).collect()));
        if args.training.evaluates() {
            dataset.items.iter().for_each(|example| trained.insert([example]));
        }
        let packed = packed(args, &dataset.items, max_length);
        let packed = ExampleRows::new(dataset.items, dataset.names, packed);
        if packed.is_empty() {
            return Err(Failure::invalid(format_args!(
                "{:?} has no row with a token to train, expected at least one",
                paths[0]
            )));
        }
        longest_row = longest_row.max(packed.longest());
        let row_tokens = packed.mean_tokens();
        inputs.sources.push(Input { settings: DataSettings { num_rows: packed.len(), weight, hash }, row_tokens });
        rows.push(Box::new(packed));
    }
    if !args.training.eval_data.is_empty() {
        heldout = sample(evaluated(read(&args.training.eval_data)?.items), args.training.max_eval_samples);
        inputs.evaluated = Some(opened.evaluated_hash(heldout.iter().flatten())?);
    }
    tell_skipped(&skipped);
    tell_overlap(trained.count(&heldout), heldout.len(), "records");
    inputs.num_heldout = heldout.len();
    let (settings, parents) = opened.settings(&growth, max_length, inputs, None)?;
    let job = opened.job(RowKind::Examples, &growth, &settings, &parents);
    let task = LanguageModeling::new(&rows, heldout, &settings, &job.device);
    opened.run(&job, &task, opened.start(&job, longest_row)?)
}

/// The rows of examples: one each, or several as the options say.
fn packed(args: &SftArgs, examples: &[Example], max_length: usize) -> Vec<Vec<Segment>> {
    let lens: Vec<usize> = examples.iter().map(|example| example.ids.len()).collect();
    match (args.packing, args.packing_strategy) {
        (false, _) => {
            lens.iter().enumerate().map(|(example, len)| vec![Segment { example, tokens: 0..*len }]).collect()
        }
        (true, PackingArg::Bfd) => best_fit_decreasing(&lens, max_length),
        (true, PackingArg::Wrapped) => wrapped(&lens, max_length),
    }
}
