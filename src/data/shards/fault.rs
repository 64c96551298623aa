//! Why token shards could not be read.

use crate::error::{ErrorKind, FileError, InFile, cut, quoted};

/// Why token shards could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardError {
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file breaks a rule.
    #[error(transparent)]
    Shard(#[from] InFile<ShardFault>),
}

/// Faults of token shards.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardFault {
    /// The text is not that of a `dataset.json`.
    #[error("{}, expected the dataset.json of token shards", cut(.0))]
    Malformed(serde_json::Error),
    /// The files are of another version.
    #[error("found format {found}, expected {expected}")]
    OtherFormat {
        /// The version.
        found: u32,
        /// The version that is read.
        expected: u32,
    },
    /// A name would lead out of the directory.
    #[error("names file {}, expected a plain file name", quoted(.name))]
    UnsafeFileName {
        /// The name.
        name: String,
    },
    /// The counts of a split are not the sums over its shards.
    #[error("found {found} {what} in its shards, expected the {expected} of the split")]
    OtherSum {
        /// Tokens or documents.
        what: &'static str,
        /// The sum.
        found: u128,
        /// The count.
        expected: u64,
    },
    /// A file is truncated, or has bytes behind its end.
    #[error("has {found_bytes} bytes, expected {expected_bytes}")]
    Size {
        /// Its size.
        found_bytes: u64,
        /// The size by `dataset.json`.
        expected_bytes: u128,
    },
    /// An offset of a document is not behind the one before it, or not inside the shard.
    #[error("found offset {found} at index {index}, expected offsets that increase from 0 to {num_tokens}")]
    BadOffset {
        /// The offset.
        found: u64,
        /// Its index.
        index: u64,
        /// Tokens of the shard.
        num_tokens: u64,
    },
    /// An id is outside of the vocabulary.
    #[error("found id {id} at token {position}, expected ids below the vocab_size {vocab_size}")]
    IdOutsideVocabulary {
        /// The id.
        id: u32,
        /// Its place in the shard.
        position: u64,
        /// The size of the vocabulary.
        vocab_size: usize,
    },
    /// The shards were made with another tokenizer.
    #[error("was made with the tokenizer of SHA-256 {expected}, found the tokenizer {found}")]
    OtherTokenizer {
        /// SHA-256 of the tokenizer at hand.
        found: String,
        /// SHA-256 of the tokenizer of the shards.
        expected: String,
    },
    /// No documents are held out.
    #[error("holds out no documents, expected a held-out split")]
    NoHeldOut,
    /// The tokens do not fill one window.
    #[error("found {found} tokens, expected at least {expected}: one window and the token after it")]
    TooFewTokens {
        /// Tokens of the split.
        found: u64,
        /// `seq_length + 1`.
        expected: u64,
    },
}

impl ShardError {
    /// Whether a split has too few tokens for one window.
    pub fn is_too_short(&self) -> bool {
        matches!(self, Self::Shard(InFile { fault: ShardFault::TooFewTokens { .. }, .. }))
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::File(error) => error.kind(),
            Self::Shard(_) => ErrorKind::Invalid,
        }
    }
}
