//! Runs of bytes, as they come, cut into the pieces that a streamed weight has.

use crate::weights::{Dtype, Sink, WeightError};

/// Numbers in each piece of a streamed weight but its last.
pub const PIECE_NUMBERS: usize = 1 << 18;

/// Takes runs of bytes of any length and hands them on in pieces of [`PIECE_NUMBERS`] numbers.
pub struct Chunks<'a, 'b> {
    sink: &'a mut Sink<'b>,
    piece_bytes: usize,
    buffer: Vec<u8>,
}

impl<'a, 'b> Chunks<'a, 'b> {
    /// For numbers of `dtype` on their way to `sink`.
    pub fn new(dtype: Dtype, sink: &'a mut Sink<'b>) -> Self {
        Self { sink, piece_bytes: PIECE_NUMBERS * dtype.size_bytes(), buffer: Vec::new() }
    }

    /// The next bytes.
    ///
    /// # Errors
    /// What the sink returns.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), WeightError> {
        while !bytes.is_empty() {
            if self.buffer.is_empty() && bytes.len() >= self.piece_bytes {
                let (piece, rest) = bytes.split_at(self.piece_bytes);
                (self.sink)(piece)?;
                bytes = rest;
                continue;
            }
            let (part, rest) = bytes.split_at(bytes.len().min(self.piece_bytes - self.buffer.len()));
            self.buffer.extend_from_slice(part);
            bytes = rest;
            if self.buffer.len() == self.piece_bytes {
                (self.sink)(&self.buffer)?;
                self.buffer.clear();
            }
        }
        Ok(())
    }

    /// Hands on what is left.
    ///
    /// # Errors
    /// What the sink returns.
    pub fn finish(self) -> Result<(), WeightError> {
        if self.buffer.is_empty() { Ok(()) } else { (self.sink)(&self.buffer) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_bytes_come_they_leave_in_pieces() {
        let bytes: Vec<u8> = (0..3 * PIECE_NUMBERS + 1000).map(|i| (i % 251) as u8).collect();
        for run in [7, 1000, PIECE_NUMBERS - 1, PIECE_NUMBERS, 2 * PIECE_NUMBERS + 5, bytes.len()] {
            let mut received: Vec<Vec<u8>> = Vec::new();
            let mut sink = |piece: &[u8]| {
                received.push(piece.to_vec());
                Ok(())
            };
            let mut pieces = Chunks::new(Dtype::Uint8, &mut sink);
            bytes.chunks(run).for_each(|run| pieces.push(run).unwrap());
            pieces.finish().unwrap();
            let lengths: Vec<usize> = received.iter().map(Vec::len).collect();
            assert_eq!(lengths, [PIECE_NUMBERS, PIECE_NUMBERS, PIECE_NUMBERS, 1000], "runs of {run}");
            assert_eq!(received.concat(), bytes);
        }
    }
}
