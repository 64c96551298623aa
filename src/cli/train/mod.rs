//! `train`, `sft` and `dpo`: continued pretraining, supervised fine-tuning, preference optimization.

mod args;
mod changes;
mod config_file;
mod data;
pub mod dpo;
mod forecast;
mod groups;
mod job;
mod operations;
mod options;
mod progress;
mod sample;
mod settings;
pub mod sft;
mod space;
mod spelling;
mod titles;
mod trl;
mod utilization;

use clap::Args;
use clap::builder::{PathBufValueParser, TypedValueParser};

pub use args::{SchedulerArg, TrainingArgs};
pub use groups::{Group, Multiplier};
pub use spelling::expanded;

use self::args::brief;
use self::data::DataArg;
use self::job::Opened;
use self::sample::{tell_overlap, tell_skipped};
use self::settings::{Input, Inputs};
use super::failure::Failure;
use crate::data::source::SkippedRows;
use crate::finetune::{EvaluatedText, LanguageModeling, Overlap, RowKind, TextData, TextOptions};
use crate::weights::WeightSource;

/// Train on text: continued pretraining, of a base as it is or grown on the fly
///
/// Options of grow (--dus, --moe, ...) grow the base first. The trained model is written to OUT in the layout of grow. Checkpoints
/// are saved beside it, and --resume continues exactly from the newest.
#[derive(Debug, Clone, Args)]
#[command(mut_args(brief))]
#[command(mut_arg("num_train_epochs", |arg| arg.default_value("1")), mut_arg("learning_rate", |arg| arg.default_value("2e-5")))]
pub struct TrainArgs {
    /// The base: a Hugging Face directory, a .gguf file, or an id on the hub
    pub base: String,
    /// Text: files with a "text" in each row, directories, patterns; or token shards
    ///
    /// Files (.txt, .jsonl, .json, .csv, .parquet, .arrow) are loaded into memory. Token shards, as written by tokenize, are streamed in
    /// constant memory. DATA=2 visits each row twice per epoch, DATA=0.5 half of them.
    #[arg(long, alias = "dataset-name", value_name = "DATA", required = true, num_args = 1.., value_parser = PathBufValueParser::new().try_map(DataArg::read), help_heading = "Data")]
    pub data: Vec<DataArg>,
    /// Options that the training commands share.
    #[command(flatten)]
    pub training: TrainingArgs,
}

/// Trains on text.
///
/// # Errors
/// Any invalid input, before any work; then errors of training and I/O.
pub fn run(args: &TrainArgs) -> Result<(), Failure> {
    let opened = Opened::new(&args.base, &args.training)?;
    let growth = opened.growth()?;
    let config = growth.source.config();
    let max_length = args.training.max_length(config)?;
    let tokenizer = opened.tokenizer()?;
    let options = TextOptions {
        tokenizer: &tokenizer,
        vocab_size: config.vocab_size,
        max_length,
        holdout: args.training.holdout(),
    };
    let mut skipped = SkippedRows::up_to(args.training.skip_bad);
    let data = TextData::read(&data::sources(&args.data)?, options, &mut skipped)?;
    let evaluated = match &args.training.eval_data[..] {
        [] => None,
        paths => Some(TextData::evaluated(paths, options, &mut skipped)?),
    };
    tell_skipped(&skipped);
    let Overlap { num_shared, num_evaluated } = data.overlap(evaluated.as_ref());
    tell_overlap(num_shared, num_evaluated, "documents");
    let TextData { rows, mut heldout, sources, .. } = data;
    let sources = sources.into_iter().map(|settings| Input { settings, row_tokens: max_length as u64 }).collect();
    let mut inputs = Inputs { sources, ..Inputs::default() };
    if let Some(EvaluatedText { rows, hash, .. }) = evaluated {
        (heldout, inputs.evaluated) = (rows, Some(hash));
    }
    inputs.num_heldout = heldout.len();
    let (settings, parents) = opened.settings(&growth, max_length, inputs, None)?;
    let job = opened.job(RowKind::Text, &growth, &settings, &parents);
    let task = LanguageModeling::new(&rows, heldout, &settings, &job.device);
    opened.run(&job, &task, opened.start(&job, max_length)?)
}
