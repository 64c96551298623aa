//! What can be wrong with a tokenizer, or with what it is given: one variant per rule.

use std::path::PathBuf;

use super::SentencePieceFault;
use crate::error::{ErrorKind, FileError, InFile};

/// Why a tokenizer could not be read, written or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A SentencePiece model breaks a rule.
    #[error(transparent)]
    SentencePiece(#[from] InFile<SentencePieceFault>),
    /// A pointer of Git LFS stands in place of the file.
    #[error("{path:?} is a Git LFS pointer, expected the file itself: run `git lfs pull` where it came from")]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// A web page was saved in place of the file.
    #[error("{path:?} is a web page, expected a tokenizer: download it again")]
    HtmlPage {
        /// The file.
        path: PathBuf,
    },
    /// Binary data: a SentencePiece model or a GGUF file under the wrong name.
    #[error("{path:?} has byte {found:#04x} at offset {offset_bytes}, expected UTF-8 text: it is not a tokenizer.json")]
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
    /// A key of a settings file has a value that it cannot have.
    #[error("{path:?}: {key} is {found}, expected {expected}")]
    BadSetting {
        /// The file beside the tokenizer.
        path: PathBuf,
        /// The key.
        key: String,
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
            Self::File(error) => error.kind(),
            _ => ErrorKind::Invalid,
        }
    }
}
