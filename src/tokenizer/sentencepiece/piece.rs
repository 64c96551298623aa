//! A piece of a SentencePiece model.

use super::SentencePieceFault as Fault;
use super::wire::Fields;

/// Longest piece. Trained ones have at most 16 characters; symbols that a user defines may have more.
const MAX_PIECE_BYTES: usize = 256;

/// A piece of text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Piece {
    /// Its text, with `▁` for a space.
    pub text: String,
    /// Log-probability, or minus the rank of a merge.
    pub score: f32,
    /// Its type.
    pub kind: PieceKind,
}

/// `SentencePiece.Type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PieceKind {
    /// Text.
    Normal,
    /// Stands for what has no piece.
    Unknown,
    /// Steers the model.
    Control,
    /// Text that is never cut.
    UserDefined,
    /// One byte, `<0x0A>`.
    Byte,
}

impl Piece {
    /// Reads the piece with this id.
    pub(super) fn parse(id: usize, mut fields: Fields<'_>) -> Result<Self, Fault> {
        let (mut text, mut score, mut kind) = ("", 0.0, 1);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => text = field.text("piece")?,
                2 => score = field.float("score")?,
                3 => kind = field.integer("type")?,
                _ => {}
            }
        }
        if text.is_empty() || text.len() > MAX_PIECE_BYTES {
            return Err(Fault::PieceLength { id, found_bytes: text.len(), limit_bytes: MAX_PIECE_BYTES });
        }
        if !score.is_finite() {
            return Err(Fault::Score { id, found: score });
        }
        let kind = match kind {
            1 => PieceKind::Normal,
            2 => PieceKind::Unknown,
            3 => PieceKind::Control,
            4 => PieceKind::UserDefined,
            6 => PieceKind::Byte,
            found => {
                let found = format!("{found} for piece {id}");
                let expected = "1 (normal), 2 (unknown), 3 (control), 4 (user-defined) or 6 (byte)";
                return Err(Fault::Unsupported { field: "type", found, expected });
            }
        };
        Ok(Self { text: text.to_owned(), score, kind })
    }
}
