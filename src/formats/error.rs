//! Why a checkpoint could not be opened, read or written, in whichever format.

use std::path::PathBuf;

use super::gguf::{GgufFault, VocabularyError};
use super::hf::{HfConfigError, HfError};
use super::peft::PeftError;
use super::safetensors::SafetensorsError;
use crate::error::{ErrorKind, FileError, InFile, listed};
use crate::output::OutputError;
use crate::tokenizer::ChatTemplateError;
use crate::tokenizer::TokenizerError;
use crate::weights::WeightError;

/// Why a checkpoint could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A safetensors file breaks a rule.
    #[error(transparent)]
    Safetensors(#[from] SafetensorsError),
    /// A `config.json` breaks a rule.
    #[error(transparent)]
    Config(#[from] HfConfigError),
    /// The files of a Hugging Face directory do not fit together.
    #[error(transparent)]
    Hf(#[from] HfError),
    /// An adapter breaks a rule.
    #[error(transparent)]
    Peft(Box<PeftError>),
    /// A GGUF file breaks a rule.
    #[error(transparent)]
    Gguf(#[from] InFile<Box<GgufFault>>),
    /// A vocabulary breaks a rule, or does not fit the model.
    #[error(transparent)]
    Vocabulary(#[from] InFile<VocabularyError>),
    /// The tokenizer could not be read.
    #[error(transparent)]
    Tokenizer(Box<TokenizerError>),
    /// The chat template is no Jinja.
    #[error(transparent)]
    ChatTemplate(Box<ChatTemplateError>),
    /// There is no chat template of that name.
    #[error("{path:?} has no chat template {name:?}, found {}", none_or_list(.found))]
    NoChatTemplate {
        /// The directory or file.
        path: PathBuf,
        /// The name; `default` if none was asked for.
        name: String,
        /// The names of those that are there.
        found: Vec<String>,
    },
    /// The weights could not be read or converted.
    #[error(transparent)]
    Weights(WeightError),
    /// The output could not be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A directory holds a checkpoint in each of two formats.
    #[error(
        "both {gguf:?} and {safetensors:?} are there, expected one format: give the path of the GGUF file, or of the config.json for the safetensors"
    )]
    TwoFormats {
        /// A GGUF file.
        gguf: PathBuf,
        /// A safetensors file.
        safetensors: PathBuf,
    },
    /// A directory holds several GGUF files.
    #[error("both {first:?} and {second:?} are there, expected one GGUF file: give the path of one")]
    SeveralGgufs {
        /// The first by name.
        first: PathBuf,
        /// The second.
        second: PathBuf,
    },
}

impl From<WeightError> for CheckpointError {
    fn from(error: WeightError) -> Self {
        match error {
            WeightError::File(error) => Self::File(error),
            _ => Self::Weights(error),
        }
    }
}

impl From<PeftError> for CheckpointError {
    fn from(error: PeftError) -> Self {
        Self::Peft(Box::new(error))
    }
}

impl From<ChatTemplateError> for CheckpointError {
    fn from(error: ChatTemplateError) -> Self {
        Self::ChatTemplate(Box::new(error))
    }
}

impl From<TokenizerError> for CheckpointError {
    fn from(error: TokenizerError) -> Self {
        Self::Tokenizer(Box::new(error))
    }
}

impl CheckpointError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::File(error) => error.kind(),
            Self::Safetensors(error) => error.kind(),
            Self::Hf(error) => error.kind(),
            Self::Tokenizer(error) => error.kind(),
            Self::Weights(error) => error.kind(),
            Self::Output(error) => error.kind(),
            Self::ChatTemplate(error) => error.kind(),
            Self::NoChatTemplate { .. } => ErrorKind::NotFound,
            Self::Config(_)
            | Self::Gguf(_)
            | Self::Peft(_)
            | Self::Vocabulary(_)
            | Self::TwoFormats { .. }
            | Self::SeveralGgufs { .. } => ErrorKind::Invalid,
        }
    }
}

fn none_or_list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { listed(names, names.len()) }
}
