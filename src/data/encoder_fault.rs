//! Why a record cannot become token ids.

use std::path::PathBuf;

use crate::tokenizer::{ChatTemplateError, TokenizerError};

/// Why a record cannot become token ids.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncoderFault {
    /// The tokenizer refuses the text.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The chat template refuses the messages.
    #[error(transparent)]
    Template(#[from] ChatTemplateError),
    /// There are messages, but no template.
    #[error("found messages, expected text: the model has no chat template")]
    NoTemplate,
    /// The tokenizer has no token that ends a text.
    #[error("the tokenizer has no end-of-text token, expected an \"eos_token\"")]
    NoEos,
    /// A preference where an example of a text should be, or the other way round.
    #[error("found {found}, expected {expected}")]
    OtherRecord {
        /// Kind of the record.
        found: &'static str,
        /// Expected kind.
        expected: &'static str,
    },
    /// The template drops the calls of tools.
    #[error("message {number} calls a tool, expected a chat template that renders `tool_calls`: {path:?} does not")]
    CallsNotRendered {
        /// The file of the template.
        path: PathBuf,
        /// Number of the message, from 1.
        number: usize,
    },
    /// The assistant's turns cannot be located.
    #[error(
        "{path:?} renders message {number} of this chat differently when it is the last, expected a chat template with \
         {{% generation %}} blocks, or one that renders a message alike whatever follows"
    )]
    NotAPrefix {
        /// The file of the template.
        path: PathBuf,
        /// Number of the message, from 1.
        number: usize,
    },
}
