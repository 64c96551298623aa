//! Why files could not become token shards.

use crate::data::source::{RowFault, RowNumber, SourceError, SourceFault};
use crate::error::{ErrorKind, FileError, InFile};
use crate::output::OutputError;
use crate::tokenizer::TokenizerError;

/// Why files could not become token shards.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizeError {
    /// A file of data could not be read, or breaks a rule.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The tokenizer refuses a document.
    #[error(transparent)]
    Document(#[from] InFile<DocumentFault>),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The output could not be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// No document has a token.
    #[error("found no token in {num_rows} rows, expected at least one document")]
    NoTokens {
        /// Rows of all files.
        num_rows: u64,
    },
    /// All documents are in one of the splits.
    #[error(
        "found {num_train} documents to train on and {num_heldout} held out at a fraction of {fraction}, expected at least one of each"
    )]
    EmptySplit {
        /// Documents to train on.
        num_train: u64,
        /// Documents held out.
        num_heldout: u64,
        /// The share to hold out.
        fraction: f64,
    },
}

/// A document that the tokenizer refuses.
#[derive(Debug, thiserror::Error)]
#[error("{number}: {fault}")]
pub struct DocumentFault {
    /// Its row.
    pub number: RowNumber,
    /// Why.
    pub fault: Box<TokenizerError>,
}

impl TokenizeError {
    /// Whether a row lacks the text to tokenize.
    pub fn lacks_text(&self) -> bool {
        let Self::Source(SourceError { fault: SourceFault::Row { fault, .. }, .. }) = self else { return false };
        matches!(fault, RowFault::MissingField { .. } | RowFault::NotAString { .. })
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Source(error) => error.kind(),
            Self::File(error) => error.kind(),
            Self::Output(error) => error.kind(),
            Self::Document(_) | Self::NoTokens { .. } | Self::EmptySplit { .. } => ErrorKind::Invalid,
        }
    }
}
