//! A SentencePiece model as a GGUF vocabulary.

use super::{GgufVocabulary, HfTokenizer, TokenType, VocabularyError};
use crate::tokenizer::{Algorithm, PieceKind, SentencePieceTokenizer};

/// Score and type that llama.cpp's converter assigns to a token listed beside the model.
const LISTED_SCORE: f32 = -1000.0;

impl GgufVocabulary {
    /// The vocabulary as [`from_hf`](Self::from_hf) makes it of `files`, the same tokenizer as `tokenizer.json`, with the
    /// scores and types of the model itself, as llama.cpp's converter writes them, instead of merges. User-defined pieces
    /// and special tokens keep their type, which the converter drops.
    ///
    /// # Errors
    /// [`VocabularyError::Unigram`]; those of [`from_hf`](Self::from_hf).
    pub(crate) fn from_sentencepiece(
        model: &SentencePieceTokenizer,
        files: &HfTokenizer,
    ) -> Result<Self, VocabularyError> {
        if model.algorithm() == Algorithm::Unigram {
            return Err(VocabularyError::Unigram);
        }
        let mut vocabulary = Self::from_hf(files)?;
        vocabulary.merges.clear();
        for (id, piece) in model.pieces().iter().enumerate() {
            vocabulary.scores[id] = piece.score;
            vocabulary.token_types[id] = match piece.kind {
                PieceKind::Normal => TokenType::Normal,
                PieceKind::Unknown => TokenType::Unknown,
                PieceKind::Control => TokenType::Control,
                PieceKind::UserDefined => TokenType::UserDefined,
                PieceKind::Byte => TokenType::Byte,
            };
        }
        for token in model.listed() {
            let id = token.id as usize;
            vocabulary.scores[id] = LISTED_SCORE;
            vocabulary.token_types[id] = if token.special { TokenType::Control } else { TokenType::UserDefined };
        }
        vocabulary.bos = vocabulary.bos.or(model.bos().map(|token| token.id));
        vocabulary.eos = vocabulary.eos.or(model.eos().map(|token| token.id));
        Ok(vocabulary)
    }
}
