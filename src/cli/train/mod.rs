//! `train`: continued pretraining.

mod args;
mod groups;
mod job;
mod progress;
mod spelling;

use std::path::PathBuf;

use clap::Args;

pub use args::{SchedulerArg, TrainingArgs};
pub use groups::{Group, Multiplier};
pub use spelling::expanded;

use self::args::{DataSize, Defaults};
use self::job::Opened;
use super::failure::Failure;
use crate::data::{check_vocabulary, text};
use crate::device::device;
use crate::finetune::{Job, LanguageModeling, Provenance, Row, Rows, TextRows};
use crate::tokenizer::Tokenizer;
use crate::weights::WeightSource;

/// Train on text: continued pretraining, also straight from a growth
///
/// Writes the trained model to OUT, as grow writes a grown one, and checkpoints beside it, from which --resume continues exactly.
#[derive(Debug, Clone, Args)]
pub struct TrainArgs {
    /// The base: a Hugging Face directory, a .gguf file, or an id on the hub
    pub base: String,
    /// Text to train on: .txt or .jsonl files with a "text" in each line
    #[arg(long, alias = "dataset-name", value_name = "FILE", required = true, num_args = 1.., help_heading = "Data")]
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
    let config = growth.source.config().clone();
    let max_length = args.training.max_length(&config)?;
    let tokenizer = opened.tokenizer()?;
    let mut documents = Vec::new();
    let mut hash = blake3::Hasher::new();
    for path in &args.data {
        documents.extend(text::read_documents(path, &tokenizer)?);
    }
    check_vocabulary(&documents, config.vocab_size)?;
    documents.iter().flat_map(|document| &document.ids).for_each(|id| {
        hash.update(&id.to_le_bytes());
    });
    let rows = TextRows::new(&documents, eos(&tokenizer), max_length);
    let num_heldout = (rows.len() as f64 * args.training.test_split_size).round() as u64;
    let rows = HeadRows { len: rows.len() - num_heldout, rows };
    if rows.len == 0 {
        return Err(Failure::invalid(format_args!(
            "the data has {} rows of {max_length} tokens, expected more",
            rows.rows.len()
        )));
    }
    let heldout = (rows.len..rows.rows.len()).map(|index| rows.rows.row(index)).collect::<Result<Vec<Row>, _>>()?;
    let data =
        DataSize { num_rows: rows.len, row_tokens: max_length as u64, hash: hash.finalize().to_hex().to_string() };
    let defaults = Defaults { num_train_epochs: 1.0, learning_rate: 2e-5 };
    let provenance = Provenance::of(&growth.source);
    let settings = args.training.settings(&config, data, max_length, None, defaults, &provenance)?;
    let device = device(&args.training.device)?.autodiff();
    let job = Job {
        disk: &opened.disk,
        sources: &opened.sources,
        growth: &growth,
        settings: &settings,
        control: args.training.control(),
        checkpoints: &opened.checkpoints,
        device: &device,
    };
    let task = LanguageModeling::new(&rows, heldout, &settings, &device);
    opened.run(&job, &task, opened.start(&job)?)
}

fn eos(tokenizer: &Tokenizer) -> Option<u32> {
    tokenizer.eos().first().copied()
}

/// The first rows, before those that are held out.
struct HeadRows {
    rows: TextRows,
    len: u64,
}

impl Rows for HeadRows {
    fn len(&self) -> u64 {
        self.len
    }

    fn row(&self, index: u64) -> Result<Row, crate::finetune::FinetuneError> {
        self.rows.row(index)
    }

    fn name(&self, index: u64) -> String {
        self.rows.name(index)
    }
}
