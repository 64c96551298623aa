//! Why text could not become windows of token ids.

use crate::error::{ErrorKind, FileError, InFile, quoted};
use crate::tokenizer::TokenizerError;

/// Why text could not become windows of token ids.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The content of a text file breaks a rule.
    #[error(transparent)]
    Text(#[from] InFile<TextFault>),
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

/// What can be wrong with a text file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextFault {
    /// The extension is none of those that are read.
    #[error("is a file of format {found:?}, expected one of .txt and .jsonl")]
    UnsupportedFormat {
        /// The extension, without the dot.
        found: String,
    },
    /// The file is a pointer of Git LFS instead of the text.
    #[error("is a Git LFS pointer, expected text: run `git lfs pull` where it came from")]
    LfsPointer,
    /// No document has a token.
    #[error("has {found_bytes} bytes but no document in them, expected at least one token")]
    NoDocuments {
        /// Size of the file.
        found_bytes: usize,
    },
    /// The bytes are not UTF-8.
    #[error("line {line}: byte {found:#04x} at offset {offset_bytes} of the file, expected UTF-8")]
    NotUtf8 {
        /// The line, from 1.
        line: usize,
        /// Offset of the first byte that is not UTF-8.
        offset_bytes: usize,
        /// That byte.
        found: u8,
    },
    /// A line breaks a rule.
    #[error("line {line}: {fault}")]
    Line {
        /// The line, from 1; the first of the document.
        line: usize,
        /// What is wrong with it.
        fault: LineFault,
    },
}

/// What can be wrong with a document of a text file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LineFault {
    /// A line is not JSON, or has the key `text` twice.
    #[error("{0} of that line, expected an object with a string \"text\"")]
    BadJson(serde_json::Error),
    /// A line is JSON but not an object.
    #[error("found {found}, expected an object with a string \"text\"")]
    NotAnObject {
        /// The type of the value.
        found: &'static str,
    },
    /// An object has no `text`.
    #[error("found the keys [{}], expected \"text\"", listed(.found))]
    MissingText {
        /// Its keys.
        found: Vec<String>,
    },
    /// `text` is not a string.
    #[error("\"text\" is {found}, expected a string")]
    TextNotString {
        /// The type of the value.
        found: &'static str,
    },
    /// The tokenizer refuses the document.
    #[error(transparent)]
    Tokenizer(TokenizerError),
}

impl DataError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::File(error) => error.kind(),
            _ => ErrorKind::Invalid,
        }
    }
}

fn listed(keys: &[String]) -> String {
    let shown: Vec<String> = keys.iter().take(8).map(|key| quoted(&key.chars().take(40).collect::<String>())).collect();
    let more = if keys.len() > shown.len() { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}
