//! What can be wrong with text on its way to windows of token ids: one variant per rule.

use std::path::{Path, PathBuf};

use crate::error::ErrorKind;
use crate::tokenizer::TokenizerError;

/// Why text could not become windows of token ids.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The file does not exist.
    #[error("{path:?} does not exist")]
    NotFound {
        /// What is missing.
        path: PathBuf,
    },
    /// A directory, a pipe or a device stands where a file should.
    #[error("{path:?} is not a regular file, expected a .txt or .jsonl file")]
    NotAFile {
        /// What was given.
        path: PathBuf,
    },
    /// The operating system failed to read.
    #[error("{path:?}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The name ends in no format that is read.
    #[error("{path:?} is a file of format {found:?}, expected one of .txt and .jsonl")]
    UnsupportedFormat {
        /// The file.
        path: PathBuf,
        /// The end of its name, without the dot.
        found: String,
    },
    /// A pointer of Git LFS stands in place of the text.
    #[error("{path:?} is a Git LFS pointer, expected text: run `git lfs pull` where it came from")]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// There is no text, or none that gives a token.
    #[error("{path:?} has {found_bytes} bytes but no document in them, expected at least one token")]
    NoDocuments {
        /// The file.
        path: PathBuf,
        /// Its size.
        found_bytes: usize,
    },
    /// The bytes are not text.
    #[error("{path:?} line {line}: byte {found:#04x} at offset {offset_bytes} of the file, expected UTF-8")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Where in the file the text stops being UTF-8.
        offset_bytes: usize,
        /// The byte there.
        found: u8,
    },
    /// A line is not JSON, or has the key `text` twice.
    #[error("{path:?} line {line}: {source} of that line, expected an object with a string \"text\"")]
    BadJson {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What was found.
        source: serde_json::Error,
    },
    /// A line is JSON, but no object.
    #[error("{path:?} line {line}: found {found}, expected an object with a string \"text\"")]
    NotAnObject {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The kind of value.
        found: &'static str,
    },
    /// An object holds its text, or whatever it has, under other keys.
    #[error("{path:?} line {line}: found the keys [{}], expected \"text\"", listed(.found))]
    MissingText {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The keys that are there.
        found: Vec<String>,
    },
    /// The text is a number, a list or something else.
    #[error("{path:?} line {line}: \"text\" is {found}, expected a string")]
    TextNotString {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The kind of value.
        found: &'static str,
    },
    /// The tokenizer refuses a document.
    #[error("{path:?} line {line}: {source}")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// The line where the document begins, from 1.
        line: usize,
        /// What it said.
        source: TokenizerError,
    },
    /// An id that the model has no embedding for.
    #[error("document {document} has id {id} at position {position}, expected ids below the vocab_size {vocab_size}")]
    IdOutsideVocabulary {
        /// Index of the document.
        document: usize,
        /// Place of the id in it.
        position: usize,
        /// The id.
        id: u32,
        /// The model's.
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
    /// There are not enough windows.
    #[error("found {found} windows of {seq_length} tokens, expected at least {expected}")]
    TooFewWindows {
        /// Whole windows.
        found: usize,
        /// Windows called for.
        expected: usize,
        /// Targets of one.
        seq_length: usize,
    },
}

impl DataError {
    /// Which kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Io { .. } => ErrorKind::Io,
            _ => ErrorKind::Invalid,
        }
    }

    /// For `map_err`: the failure of an operation on `path`, with absence told apart.
    pub(super) fn io(path: &Path) -> impl Fn(std::io::Error) -> Self + '_ {
        |source| match source.kind() {
            std::io::ErrorKind::NotFound => Self::NotFound { path: path.to_owned() },
            _ => Self::Io { path: path.to_owned(), source },
        }
    }
}

fn listed(keys: &[String]) -> String {
    let shown: Vec<String> = keys.iter().take(8).map(|key| format!("{:?}", cut(key))).collect();
    let more = if keys.len() > shown.len() { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

fn cut(key: &str) -> String {
    key.chars().take(40).collect()
}
