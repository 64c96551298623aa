//! Faults of a SentencePiece model: one variant per rule.

use crate::error::{cut, quoted};

/// Why a `tokenizer.model` cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SentencePieceFault {
    /// The file ends within a field.
    #[error("found {left_bytes} bytes from byte {offset} on, expected {found_bytes}")]
    PastTheEnd {
        /// Where the bytes begin.
        offset: usize,
        /// How many there should be.
        found_bytes: u64,
        /// How many there are.
        left_bytes: usize,
    },
    /// A number of more than 64 bits.
    #[error("the number at byte {offset} does not end, expected at most 10 bytes")]
    EndlessNumber {
        /// Where it begins.
        offset: usize,
    },
    /// Not how a protocol buffer encodes a field.
    #[error("the field at byte {offset} has wire type {found}, expected 0, 1, 2 or 5")]
    WireType {
        /// Where the field begins.
        offset: usize,
        /// Its wire type.
        found: u8,
    },
    /// A field of a SentencePiece model has the encoding of another type.
    #[error("{field} at byte {offset} is of another type, expected {expected}")]
    WrongType {
        /// Where the field begins.
        offset: usize,
        /// Its name.
        field: &'static str,
        /// Its type in a SentencePiece model.
        expected: &'static str,
    },
    /// The file ends where a message is to follow, or is no SentencePiece model.
    #[error(
        "no {part}, expected pieces, trainer_spec and normalizer_spec: the file is cut off or no SentencePiece model"
    )]
    Missing {
        /// The message that is missing.
        part: &'static str,
    },
    /// A vocabulary of tiktoken under the same name.
    #[error("this is a tiktoken vocabulary, expected a SentencePiece model: use the tokenizer.json instead")]
    Tiktoken,
    /// More pieces than any real vocabulary has.
    #[error("found more than {limit} pieces, which is the limit")]
    TooManyPieces {
        /// The limit.
        limit: usize,
    },
    /// The pieces can be joined in more ways than those of any real vocabulary.
    #[error("found more than {limit} ways to join two pieces, which is the limit")]
    TooManyMerges {
        /// The limit.
        limit: usize,
    },
    /// A piece without text, or with more than any real one.
    #[error("piece {id} has {found_bytes} bytes, expected 1 to {limit_bytes}")]
    PieceLength {
        /// The piece.
        id: usize,
        /// Its length.
        found_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// Two pieces have one text.
    #[error("pieces {first} and {second} are both {}, expected each once", quoted(.piece))]
    PieceTwice {
        /// The text.
        piece: String,
        /// The first id.
        first: usize,
        /// The second id.
        second: usize,
    },
    /// Nothing can be sorted by it.
    #[error("the score of piece {id} is {found}, expected a finite number")]
    Score {
        /// The piece.
        id: usize,
        /// Its score.
        found: f32,
    },
    /// `byte_fallback` without a piece for each byte.
    #[error("no piece {piece} of type byte, expected all 256 for byte_fallback")]
    MissingByte {
        /// The first that is missing.
        piece: String,
    },
    /// A setting whose effect cannot be reproduced.
    #[error("{field} is {}, expected {expected}", cut(.found))]
    Unsupported {
        /// The setting.
        field: &'static str,
        /// Its value.
        found: String,
        /// Supported values.
        expected: &'static str,
    },
}
