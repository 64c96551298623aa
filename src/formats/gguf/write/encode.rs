//! The numbers of a weight in the type and order in which GGUF stores them, piece by piece.

use super::quantize::quantize;
use crate::weights::GgmlType;
use crate::weights::{Dtype, GgmlKind, Sink, TensorId, WeightError, cast_bytes, widen_to_f32};

/// Turns runs of whole numbers of one type into another and hands them on.
pub(super) struct Encoder<'a, 'b> {
    id: TensorId,
    from: Dtype,
    to: GgmlType,
    sink: &'a mut Sink<'b>,
    /// Numbers that are no whole block yet come first.
    values: Vec<f32>,
    encoded: Vec<u8>,
}

impl<'a, 'b> Encoder<'a, 'b> {
    /// For the weight `id`, whose numbers are of type `from`.
    ///
    /// # Errors
    /// [`WeightError::NotComputable`] if these are no floating-point numbers.
    pub fn new(id: TensorId, from: Dtype, to: GgmlType, sink: &'a mut Sink<'b>) -> Result<Self, WeightError> {
        if !from.is_float() {
            return Err(WeightError::NotComputable {
                id,
                found: from,
                expected: "floating-point numbers to write as GGUF",
            });
        }
        Ok(Self { id, from, to, sink, values: Vec::new(), encoded: Vec::new() })
    }

    /// The next numbers; all numbers of the weight together are whole blocks.
    ///
    /// # Errors
    /// [`WeightError::NotWritable`] for the first number that the type cannot hold: one that would become infinite, and in
    /// blocks also infinity and NaN; what the sink returns.
    pub fn push(&mut self, numbers: &[u8]) -> Result<(), WeightError> {
        self.encoded.clear();
        let dtype = match self.to.kind {
            GgmlKind::F32 => Dtype::Float32,
            GgmlKind::F16 => Dtype::Float16,
            GgmlKind::BF16 => Dtype::Bfloat16,
            _ => return self.push_blocks(numbers),
        };
        cast_bytes(numbers, self.from, dtype, &mut self.encoded);
        if dtype != self.from
            && let Some(found) = self.new_infinity(numbers, dtype)
        {
            return Err(self.not_writable(found));
        }
        (self.sink)(&self.encoded)
    }

    fn push_blocks(&mut self, numbers: &[u8]) -> Result<(), WeightError> {
        widen_to_f32(numbers, self.from, &mut self.values);
        let whole = self.values.len() / self.to.block_numbers * self.to.block_numbers;
        quantize(self.to, &self.values[..whole], &mut self.encoded).map_err(|found| self.not_writable(found))?;
        self.values.drain(..whole);
        (self.sink)(&self.encoded)
    }

    fn not_writable(&self, found: f32) -> WeightError {
        WeightError::NotWritable { id: self.id, found, file_type: self.to.name }
    }

    /// The first finite number that is no longer finite.
    fn new_infinity(&mut self, numbers: &[u8], dtype: Dtype) -> Option<f32> {
        self.values.clear();
        widen_to_f32(&self.encoded, dtype, &mut self.values);
        let at = |place: usize| &numbers[place * self.from.size_bytes()..][..self.from.size_bytes()];
        let mut original = Vec::new();
        self.values.iter().enumerate().filter(|(_, value)| value.is_infinite()).find_map(|(place, _)| {
            original.clear();
            widen_to_f32(at(place), self.from, &mut original);
            original[0].is_finite().then_some(original[0])
        })
    }
}

/// The rows of one attention head: `head_dim` rows of `columns` numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub head_dim: usize,
    pub columns: usize,
}

impl Head {
    /// Puts the rows of each head, which rotary embedding pairs as `i` with `i + head_dim / 2`, in the order in which GGUF's
    /// llama pairs them: `2 i` with `2 i + 1`.
    pub fn interleaved(self, dtype: Dtype) -> Heads {
        Heads {
            head_dim: self.head_dim,
            row_bytes: self.columns * dtype.size_bytes(),
            rows: Vec::new(),
            reordered: Vec::new(),
        }
    }
}

/// The rows of heads as they come, kept until one head is whole.
pub(super) struct Heads {
    head_dim: usize,
    row_bytes: usize,
    rows: Vec<u8>,
    reordered: Vec<u8>,
}

impl Heads {
    /// The next bytes; `sink` gets whole heads.
    ///
    /// # Errors
    /// What the sink returns.
    pub fn push(&mut self, mut bytes: &[u8], sink: &mut Sink<'_>) -> Result<(), WeightError> {
        let head_bytes = self.head_dim * self.row_bytes;
        while !bytes.is_empty() {
            let (part, rest) = bytes.split_at(bytes.len().min(head_bytes - self.rows.len()));
            self.rows.extend_from_slice(part);
            bytes = rest;
            if self.rows.len() == head_bytes {
                self.reordered.clear();
                for pair in 0..self.head_dim / 2 {
                    for row in [pair, pair + self.head_dim / 2] {
                        self.reordered.extend_from_slice(&self.rows[row * self.row_bytes..][..self.row_bytes]);
                    }
                }
                self.rows.clear();
                sink(&self.reordered)?;
            }
        }
        Ok(())
    }
}
