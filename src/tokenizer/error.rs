//! What can be wrong with a tokenizer, or with what it is given: one variant per rule.

use std::path::{Path, PathBuf};

use crate::error::ErrorKind;

/// Why a tokenizer could not be read, written or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file does not exist.
    #[error("{path:?} does not exist")]
    NotFound {
        /// What is missing.
        path: PathBuf,
    },
    /// The vocabulary is there only in a form that is not read.
    #[error("{path:?} does not exist, only tokenizer.model beside it, a SentencePiece model, which is not read")]
    OnlySentencePiece {
        /// What is missing.
        path: PathBuf,
    },
    /// A directory, a pipe or a device stands where a file should.
    #[error("{path:?} is not a regular file, expected a tokenizer.json")]
    NotAFile {
        /// What was given.
        path: PathBuf,
    },
    /// The operating system failed to read or write.
    #[error("{path:?}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is larger than any real one.
    #[error("{path:?} has {found_bytes} bytes, expected at most {limit_bytes}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        found_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// A pointer of Git LFS stands in place of the file.
    #[error("{path:?} is a Git LFS pointer, expected JSON: run `git lfs pull` where it came from")]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// A web page was saved in place of the file.
    #[error("{path:?} is an HTML page, expected JSON: download it again")]
    HtmlPage {
        /// The file.
        path: PathBuf,
    },
    /// Binary data: a SentencePiece model or a GGUF file under the wrong name.
    #[error("{path:?} has byte {found:#04x} at offset {offset_bytes}, expected UTF-8 text: it is no tokenizer.json")]
    NotText {
        /// The file.
        path: PathBuf,
        /// Where the text stops being UTF-8.
        offset_bytes: usize,
        /// The byte there.
        found: u8,
    },
    /// The text is not JSON, or not of the form that the file calls for.
    #[error("{path:?}: {source}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was found and expected, with line and column.
        source: serde_json::Error,
    },
    /// Some other JSON file.
    #[error("{path:?} has no \"model\", expected the one of a tokenizer.json")]
    NoModel {
        /// The file.
        path: PathBuf,
    },
    /// A kind of vocabulary that nobody here can apply.
    #[error("{path:?} has a model of type {found:?}, expected BPE, Unigram, WordLevel or WordPiece")]
    UnknownModel {
        /// The file.
        path: PathBuf,
        /// `model.type`.
        found: String,
    },
    /// A part of the file is of no known kind, or contradicts another.
    #[error("{path:?} cannot be used: {reason}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What the tokenizers library said.
        reason: String,
    },
    /// An added token would get another id than the file states, and the model would see the wrong embedding.
    #[error("{path:?} gives added token {token:?} the id {expected}, but it comes out as {found:?}")]
    MovedToken {
        /// The file.
        path: PathBuf,
        /// The token.
        token: String,
        /// The id in the file.
        expected: u32,
        /// The id in use.
        found: Option<u32>,
    },
    /// A key that names the first or the last token of a text does not name a token.
    #[error("{path:?}: {key} is {found}, expected {expected}")]
    BadSpecialToken {
        /// The file beside `tokenizer.json`.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What it should be.
        expected: &'static str,
    },

    /// A word outside a vocabulary that has none for unknown words.
    #[error("word {word:?} at byte {offset_bytes} is not in the vocabulary, expected one of its {vocab_size} words")]
    UnknownWord {
        /// The word.
        word: String,
        /// Where it begins in the text.
        offset_bytes: usize,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// The text could not be turned into ids.
    #[error("the text of {text_bytes} bytes could not be encoded: {reason}")]
    Encode {
        /// Size of the text.
        text_bytes: usize,
        /// What the tokenizers library said.
        reason: String,
    },
    /// An id that stands for no token.
    #[error("id {id} at position {position} stands for no token, expected one below {vocab_size}")]
    UnknownId {
        /// The id.
        id: u32,
        /// Where it stands among the ids.
        position: usize,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// The ids could not be turned into text.
    #[error("{num_tokens} ids could not be decoded: {reason}")]
    Decode {
        /// How many.
        num_tokens: usize,
        /// What the tokenizers library said.
        reason: String,
    },
}

impl TokenizerError {
    /// Which kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } | Self::OnlySentencePiece { .. } => ErrorKind::NotFound,
            Self::Io { .. } => ErrorKind::Io,
            _ => ErrorKind::Invalid,
        }
    }

    /// For `map_err`: the failure of an operation on `path`, with absence told apart.
    pub(super) fn io(path: &Path) -> impl Fn(std::io::Error) -> Self + '_ {
        |source| match source.kind() {
            std::io::ErrorKind::NotFound if path.with_file_name("tokenizer.model").exists() => {
                Self::OnlySentencePiece { path: path.to_owned() }
            }
            std::io::ErrorKind::NotFound => Self::NotFound { path: path.to_owned() },
            _ => Self::Io { path: path.to_owned(), source },
        }
    }
}
