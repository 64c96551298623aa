//! Why a checkpoint cannot be grown as asked.

use crate::config::ConfigError;
use crate::device::DeviceError;
use crate::error::{ErrorKind, FileError};
use crate::formats::CheckpointError;
use crate::growth::PlanError;
use crate::growth::mergekit::MergeError;
use crate::tokenizer::TokenizerError;
use crate::weights::WeightError;

/// Why a checkpoint cannot be grown as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpscaleError {
    /// The plan does not fit the base.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The mergekit file breaks a rule.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// A checkpoint cannot be opened.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A weight cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// The decoder cannot compute with a base that it can copy.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A tokenizer cannot be read, or cannot encode a text.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The device for computing does not work.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// More experts than any decoder has, probably a typing error: a record lists each.
    #[error("the result would have {found} experts per layer, expected at most {limit}")]
    TooManyExperts {
        /// Experts per layer.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// There is one line of prompts per expert.
    #[error("{path:?} has {found} prompts, expected {expected}, one line per expert")]
    PromptCount {
        /// The file.
        path: std::path::PathBuf,
        /// Lines.
        found: usize,
        /// Experts.
        expected: usize,
    },
    /// A prompt is empty or blank.
    #[error("a prompt of expert {expert} has no token, expected at least one")]
    EmptyPrompt {
        /// Index of the expert.
        expert: usize,
    },
    /// The tokenizer has an id without a row in the embeddings.
    #[error("the tokenizer gives id {id}, expected ids below vocab_size {vocab_size}")]
    IdBeyondVocabulary {
        /// The id.
        id: u32,
        /// Rows of the embeddings.
        vocab_size: usize,
    },
    /// A text is too short to predict a token of it.
    #[error("the text to compare on has {found} tokens, expected at least 2")]
    ShortText {
        /// Its tokens.
        found: usize,
    },
    /// The built-in text does not suit the tokenizer.
    #[error("the built-in text does not suit the tokenizer ({source}): expected a text of your own")]
    BuiltInText {
        /// Why.
        source: TokenizerError,
    },
    /// An id is one token for one model and another token for another.
    #[error(
        "the vocabularies of {first:?} and {other:?} differ at id {id}: {found:?} and {expected:?}, expected one tokenizer"
    )]
    DifferentTokens {
        /// One model.
        first: String,
        /// The other.
        other: String,
        /// The id.
        id: u32,
        /// Its token for the first, truncated.
        found: String,
        /// Its token for the other, truncated.
        expected: String,
    },
}

impl UpscaleError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Checkpoint(error) => error.kind(),
            Self::Weights(error) => error.kind(),
            Self::File(error) => error.kind(),
            Self::Tokenizer(error) => error.kind(),
            Self::Device(_) => ErrorKind::Io,
            _ => ErrorKind::Invalid,
        }
    }
}
