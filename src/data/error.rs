//! Why text could not become windows of token ids.

use std::path::PathBuf;

use super::source::{RowNumber, SourceError};
use crate::error::ErrorKind;
use crate::tokenizer::TokenizerError;

/// Why text could not become windows of token ids.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file could not be read, or a row of it breaks a rule.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The tokenizer refuses a document.
    #[error("{path:?}: {number}: {error}")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// The row of the document.
        number: RowNumber,
        /// Why it is refused.
        error: Box<TokenizerError>,
    },
    /// No document of a file has a token.
    #[error("{path:?} has no document with a token, expected at least one")]
    NoDocuments {
        /// The file.
        path: PathBuf,
    },
    /// The model has no embedding for an id.
    #[error("document {document} has id {id} at position {position}, expected ids below the vocab_size {vocab_size}")]
    IdOutsideVocabulary {
        /// Index of the document.
        document: usize,
        /// Position in the document.
        position: usize,
        /// The id.
        id: u32,
        /// Rows of the embedding table.
        vocab_size: usize,
    },
    /// The text does not fill one window.
    #[error("found {found} tokens, expected at least {expected}: one window and the token after it")]
    TooFewTokens {
        /// Tokens, separators included.
        found: usize,
        /// `seq_length + 1`.
        expected: usize,
    },
    /// The text does not fill as many windows as needed.
    #[error("found {found} windows of {seq_length} tokens, expected at least {expected}")]
    TooFewWindows {
        /// Complete windows.
        found: usize,
        /// Windows needed.
        expected: usize,
        /// Targets per window.
        seq_length: usize,
    },
}

impl DataError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Source(error) => error.kind(),
            _ => ErrorKind::Invalid,
        }
    }
}
