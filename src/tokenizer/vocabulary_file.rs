//! The file of a directory that holds the vocabulary.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::TokenizerError;
use super::sentencepiece::SentencePieceTokenizer;
use super::text::read_text;
use crate::output::disk::Disk;
use crate::output::read::exists;

/// A vocabulary in either format.
#[derive(Debug)]
pub(crate) enum VocabularyFile {
    /// `tokenizer.json`.
    Json {
        /// Path of the file.
        path: PathBuf,
        /// Its text.
        text: String,
    },
    /// `tokenizer.model`.
    SentencePiece(SentencePieceTokenizer),
}

impl VocabularyFile {
    /// Reads `tokenizer.json`, or `tokenizer.model` if there is none.
    ///
    /// # Errors
    /// [`TokenizerError::File`] if neither can be read; the variant of the first broken rule.
    pub fn open_on(disk: &dyn Disk, directory: &Path) -> Result<Self, TokenizerError> {
        let path = directory.join("tokenizer.json");
        if !exists(disk, &path)? && exists(disk, &directory.join("tokenizer.model"))? {
            return SentencePieceTokenizer::open_on(disk, directory).map(Self::SentencePiece);
        }
        Ok(Self::Json { text: read_text(disk, &path)?, path })
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Json { path, .. } => path,
            Self::SentencePiece(tokenizer) => tokenizer.path(),
        }
    }

    /// The text of `tokenizer.json`, or what it would be.
    ///
    /// # Errors
    /// [`TokenizerError::SentencePiece`].
    pub fn to_json(&self) -> Result<Cow<'_, str>, TokenizerError> {
        Ok(match self {
            Self::Json { text, .. } => Cow::Borrowed(text),
            Self::SentencePiece(tokenizer) => Cow::Owned(tokenizer.to_json()?),
        })
    }
}
