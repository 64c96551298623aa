//! Cuts runs of bytes into the pieces of a streamed weight.

use crate::weights::{Dtype, Sink, WeightError};

/// Numbers in a piece of a streamed weight; the last piece may have fewer.
pub const PIECE_NUMBERS: usize = 1 << 18;

/// Receives runs of bytes of any length and passes them on in pieces of [`PIECE_NUMBERS`] numbers.
pub struct Chunks<'a, 'b> {
    sink: &'a mut Sink<'b>,
    piece_bytes: usize,
    buffer: Vec<u8>,
}

impl<'a, 'b> Chunks<'a, 'b> {
    /// Cuts numbers of `dtype` for `sink`.
    pub fn new(dtype: Dtype, sink: &'a mut Sink<'b>) -> Self {
        Self { sink, piece_bytes: PIECE_NUMBERS * dtype.size_bytes(), buffer: Vec::new() }
    }

    /// Receives the next bytes.
    ///
    /// # Errors
    /// The error of the sink.
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

    /// Passes on the rest.
    ///
    /// # Errors
    /// The error of the sink.
    pub fn finish(self) -> Result<(), WeightError> {
        if self.buffer.is_empty() { Ok(()) } else { (self.sink)(&self.buffer) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_any_length_become_pieces_of_one_length() {
        let bytes: Vec<u8> = (0..3 * PIECE_NUMBERS + 1000).map(|i| (i % 251) as u8).collect();
        for run in [7, 1000, PIECE_NUMBERS - 1, PIECE_NUMBERS, 2 * PIECE_NUMBERS + 5, bytes.len()] {
            let mut received: Vec<Vec<u8>> = Vec::new();
            let mut sink = |piece: &[u8]| {
                received.push(piece.to_vec());
                Ok(())
            };
            let mut chunks = Chunks::new(Dtype::Uint8, &mut sink);
            bytes.chunks(run).for_each(|run| chunks.push(run).unwrap());
            chunks.finish().unwrap();
            let lengths: Vec<usize> = received.iter().map(Vec::len).collect();
            assert_eq!(lengths, [PIECE_NUMBERS, PIECE_NUMBERS, PIECE_NUMBERS, 1000], "runs of {run}");
            assert_eq!(received.concat(), bytes);
        }
    }
}
