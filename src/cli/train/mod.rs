//! `train`, `sft` and `dpo`: continued pretraining, supervised fine-tuning, preference optimization.

mod args;
pub mod dpo;
mod groups;
mod job;
mod progress;
mod sample;
pub mod sft;
mod spelling;

use std::path::{Path, PathBuf};

use clap::Args;

pub use args::{SchedulerArg, TrainingArgs};
pub use groups::{Group, Multiplier};
pub use spelling::expanded;

use self::args::{Defaults, Inputs, brief};
use self::job::Opened;
use super::failure::Failure;
use crate::config::DecoderConfig;
use crate::data::check_vocabulary;
use crate::data::shards::{TokenShards, TokenWindows};
use crate::data::source::data_files;
use crate::finetune::{FinetuneError, LanguageModeling, Row, RowRange, Rows, TextRows, read_texts};
use crate::tokenizer::Tokenizer;
use crate::weights::WeightSource;

/// The record in a directory of token shards.
const SHARDS: &str = "dataset.json";

/// Train on text: continued pretraining, also straight from a growth
///
/// Options of grow (--dus, --moe, ...) grow the base first. The trained model is written to OUT in the layout of grow. Checkpoints
/// are saved beside it, and --resume continues exactly from the newest.
#[derive(Debug, Clone, Args)]
#[command(mut_args(brief))]
pub struct TrainArgs {
    /// The base: a Hugging Face directory, a .gguf file, or an id on the hub
    pub base: String,
    /// Text: files with a "text" in each row, directories, patterns; or token shards
    ///
    /// Files (.txt, .jsonl, .json, .csv, .parquet) are loaded into memory. Token shards, as written by tokenize, are streamed in
    /// constant memory.
    #[arg(long, alias = "dataset-name", value_name = "DATA", required = true, num_args = 1.., help_heading = "Data")]
    pub data: Vec<PathBuf>,
    /// Options that the training commands share.
    #[command(flatten)]
    pub training: TrainingArgs,
}

/// Trains on text.
///
/// # Errors
/// Every fault of the input, before any work; then what training or the disk meets.
pub fn run(args: &TrainArgs) -> Result<(), Failure> {
    let opened = Opened::new(&args.base, &args.training)?;
    let growth = opened.growth()?;
    let config = growth.source.config();
    let max_length = args.training.max_length(config)?;
    let tokenizer = opened.tokenizer()?;
    let (rows, hash) = match &args.data[..] {
        [directory] if directory.join(SHARDS).is_file() => shards(directory, &tokenizer, config, max_length)?,
        data => texts(data, &tokenizer, config, max_length)?,
    };
    let num_train = args.training.num_train(rows.len())?;
    let train = RowRange { rows: &*rows, range: 0..num_train };
    let heldout = (num_train..rows.len()).map(|index| rows.row(index)).collect::<Result<Vec<Row>, _>>()?;
    let hash = blake3::hash(format!("{hash} {num_train} {max_length}").as_bytes()).to_hex().to_string();
    let data = Inputs { num_rows: num_train, row_tokens: max_length as u64, hash };
    let defaults = Defaults { num_train_epochs: 1.0, learning_rate: 2e-5 };
    let (settings, parents) = opened.settings(&growth, max_length, data, None, defaults)?;
    let job = opened.job(&growth, &settings, &parents)?;
    let task = LanguageModeling::new(&train, heldout, &settings, &job.device);
    opened.run(&job, &task, opened.start(&job)?)
}

/// Windows of token shards, and the hash of the record that lists the hashes of their files.
fn shards(
    directory: &Path,
    tokenizer: &Tokenizer,
    config: &DecoderConfig,
    max_length: usize,
) -> Result<(Box<dyn Rows>, String), Failure> {
    let shards = TokenShards::open(directory).map_err(FinetuneError::from)?;
    shards.check_tokenizer(tokenizer).map_err(FinetuneError::from)?;
    if shards.vocab_size() > config.vocab_size {
        return Err(Failure::invalid(format_args!(
            "{directory:?} has ids below {}, expected below vocab_size {} of the model",
            shards.vocab_size(),
            config.vocab_size
        )));
    }
    let record = directory.join(SHARDS);
    let bytes = std::fs::read(&record).map_err(Failure::reading(&record))?;
    let windows = TokenWindows::new(shards, max_length).map_err(FinetuneError::from)?;
    Ok((Box::new(windows), blake3::hash(&bytes).to_hex().to_string()))
}

/// Rows of the text of files, and the hash of their ids.
fn texts(
    data: &[PathBuf],
    tokenizer: &Tokenizer,
    config: &DecoderConfig,
    max_length: usize,
) -> Result<(Box<dyn Rows>, String), Failure> {
    let documents = read_texts(&data_files(data)?, tokenizer)?;
    check_vocabulary(&documents, config.vocab_size)?;
    let mut hash = blake3::Hasher::new();
    for document in &documents {
        hash.update(&(document.ids.len() as u64).to_le_bytes());
        let ids: Vec<u8> = document.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        hash.update(&ids);
    }
    let rows = TextRows::new(&documents, tokenizer.eos().first().copied(), max_length);
    Ok((Box::new(rows), hash.finalize().to_hex().to_string()))
}
