//! Why a run cannot start or go on.

use std::path::PathBuf;

use super::settings::Change;
use crate::data::DataError;
use crate::data::shards::ShardError;
use crate::data::source::SourceError;
use crate::error::{ErrorKind, FileError, InFile};
use crate::formats::CheckpointError;
use crate::lora::LoraError;
use crate::output::OutputError;
use crate::tokenizer::TokenizerError;
use crate::train::StateError;
use crate::upscale::UpscaleError;
use crate::weights::WeightError;

/// Why a run cannot start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FinetuneError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A directory cannot be written or verified.
    #[error(transparent)]
    Output(Box<OutputError>),
    /// A checkpoint cannot be opened.
    #[error(transparent)]
    Checkpoint(Box<CheckpointError>),
    /// The base cannot be grown as asked.
    #[error(transparent)]
    Upscale(Box<UpscaleError>),
    /// A weight cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// The tokenizer cannot be read, or cannot encode a text.
    #[error(transparent)]
    Tokenizer(Box<TokenizerError>),
    /// The state of the optimizer cannot be read or written.
    #[error(transparent)]
    Optimizer(Box<InFile<StateError>>),
    /// A checkpoint has no state of a run that this version reads.
    #[error("{path:?}: {reason}")]
    State {
        /// The file.
        path: PathBuf,
        /// Reason.
        reason: String,
    },
    /// The settings differ from those of the checkpoint.
    #[error("{path:?} was saved with other settings:{}", listed(.changes))]
    Changed {
        /// The checkpoint.
        path: PathBuf,
        /// Settings that differ.
        changes: Vec<Change>,
    },
    /// A loss or a gradient is not finite; the model was not updated.
    #[error("step {step}: loss {loss}, gradient norm {grad_norm}, expected finite numbers; the update was not made. Rows: {}{}", .rows.join(", "), last_good(.last_checkpoint))]
    NotFinite {
        /// The update, from 1.
        step: usize,
        /// Its loss.
        loss: f64,
        /// The norm of its gradient.
        grad_norm: f64,
        /// Where its rows come from.
        rows: Vec<String>,
        /// The last checkpoint before it.
        last_checkpoint: Option<PathBuf>,
    },
    /// A weight of the base, or of a checkpoint, is not finite.
    #[error("{name} of {of} has NaN or infinite values: it cannot be trained")]
    WeightNotFinite {
        /// The Hugging Face name of the weight.
        name: String,
        /// The base, or the path of a checkpoint.
        of: String,
    },
    /// The loss or the gradient is not finite before the first update, though all weights are.
    #[error("the base gives loss {loss}, gradient norm {grad_norm} before any update, expected finite numbers: training has not diverged, the activations or gradients of the base overflow. Rows: {}", .rows.join(", "))]
    BaseNotFinite {
        /// The loss.
        loss: f64,
        /// The norm of the gradient.
        grad_norm: f64,
        /// Where its rows come from.
        rows: Vec<String>,
    },
    /// The base gives a completion no finite log-probability, so that there is nothing to compare the policy with.
    #[error("the log-probability of {pair} under the reference is {value}, expected a finite number")]
    ReferenceNotFinite {
        /// Where the pair comes from.
        pair: String,
        /// The log-probability.
        value: f32,
    },
    /// The first loss of a preference run shows that the reference is another model than the policy.
    #[error(
        "the first loss is {found}, expected {expected}: the reference and the policy must be the same model at the start"
    )]
    InitialLoss {
        /// The loss.
        found: f64,
        /// The loss of a policy that is its reference.
        expected: f64,
    },
    /// A file of data cannot be read.
    #[error(transparent)]
    Source(Box<SourceError>),
    /// Documents do not suit the model.
    #[error(transparent)]
    Data(Box<DataError>),
    /// Token shards cannot be read.
    #[error(transparent)]
    Shards(Box<ShardError>),
    /// A file has no format of records.
    #[error("{path:?}: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Reason.
        reason: String,
    },
    /// A row is not a valid record, or cannot be encoded.
    #[error("{row}: {reason}")]
    Record {
        /// The file and the row.
        row: String,
        /// Reason.
        reason: String,
    },
    /// The tokenizer names no token that ends a text, which separates documents.
    #[error("the tokenizer has no end-of-text token, expected an \"eos_token\" (deepwide tokenize --no-eos omits it)")]
    NoEos,
    /// The model has no embedding for the token that ends a text.
    #[error("the end-of-text token has id {id}, expected an id below vocab_size {vocab_size} of the model")]
    EosOutsideVocabulary {
        /// The id.
        id: u32,
        /// Rows of the embedding table.
        vocab_size: usize,
    },
    /// A file, or a directory of token shards, is in two sources.
    #[error(
        "{path:?} is given twice, expected once: its rows that are held out of one source would be trained in the other"
    )]
    Repeated {
        /// The file or directory.
        path: PathBuf,
    },
    /// There is nothing to train or to evaluate on.
    #[error("{0}")]
    NoData(String),
    /// The model cannot be adapted as asked.
    #[error(transparent)]
    Lora(Box<LoraError>),
    /// A pattern of parameter names is not a valid regular expression.
    #[error("{0}")]
    Pattern(#[from] regex::Error),
}

/// Boxes large errors, to keep `Result` small.
macro_rules! from_boxed {
    ($($variant:ident($error:ty)),* $(,)?) => {
        $(impl From<$error> for FinetuneError {
            fn from(error: $error) -> Self {
                Self::$variant(Box::new(error))
            }
        })*
    };
}

from_boxed!(
    Upscale(UpscaleError),
    Tokenizer(TokenizerError),
    Data(DataError),
    Shards(ShardError),
    Optimizer(InFile<StateError>),
    Checkpoint(CheckpointError),
    Source(SourceError),
    Lora(LoraError),
    Output(OutputError)
);

impl FinetuneError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::File(error) => error.kind(),
            Self::Output(error) => error.kind(),
            Self::Checkpoint(error) => error.kind(),
            Self::Upscale(error) => error.kind(),
            Self::Weights(error) => error.kind(),
            Self::Tokenizer(error) => error.kind(),
            Self::Optimizer(error) => error.fault.kind(),
            Self::Lora(error) => error.kind(),
            Self::Source(error) => error.kind(),
            Self::Data(error) => error.kind(),
            Self::Shards(error) => error.kind(),
            Self::State { .. }
            | Self::Changed { .. }
            | Self::Format { .. }
            | Self::Record { .. }
            | Self::NoEos
            | Self::EosOutsideVocabulary { .. }
            | Self::Repeated { .. }
            | Self::NoData(_)
            | Self::WeightNotFinite { .. }
            | Self::Pattern(_) => ErrorKind::Invalid,
            Self::NotFinite { .. }
            | Self::BaseNotFinite { .. }
            | Self::ReferenceNotFinite { .. }
            | Self::InitialLoss { .. } => ErrorKind::Io,
        }
    }
}

fn listed(changes: &[Change]) -> String {
    let line = |change: &Change| format!("\n  {}: found {}, expected {}", change.name, change.now, change.saved);
    changes.iter().map(line).collect()
}

fn last_good(checkpoint: &Option<PathBuf>) -> String {
    checkpoint.as_ref().map_or_else(String::new, |path| format!(". The last checkpoint is {path:?}"))
}
