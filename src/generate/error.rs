//! Why text cannot be generated.

use super::SamplingFault;
use crate::error::ErrorKind;
use crate::tokenizer::TokenizerError;

/// Why text cannot be generated.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A prompt has no token.
    #[error("the prompt is empty and the model has no token that begins a text, expected at least one token")]
    EmptyPrompt,
    /// A prompt does not fit the context.
    #[error(
        "the prompt has {found} tokens, expected at most {room}: the context has {context}, with room for an answer"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        found: usize,
        /// Tokens that a prompt may have.
        room: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// A token id of a prompt is not in the vocabulary of the model.
    #[error("token {id} of the prompt is not below {vocab_size}, the size of the vocabulary")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Rows of the embedding table.
        vocab_size: usize,
    },
    /// A number of the sampling is out of its range.
    #[error(transparent)]
    Sampling(#[from] SamplingFault),
    /// The model computes no numbers.
    #[error(
        "the logits of token {position} of the output are not finite, expected numbers: check the weights; with --dtype float16, an \
         activation may have overflowed: try bfloat16"
    )]
    NotFinite {
        /// Tokens of the output before.
        position: usize,
    },
    /// The tokenizer failed on the output.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

impl GenerateError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Tokenizer(error) => error.kind(),
            _ => ErrorKind::Invalid,
        }
    }
}
