//! The numbers of a weight in the type and order in which GGUF stores them, piece by piece.

use half::f16;

use super::options::GgufFileType;
use crate::weights::GgmlType;
use crate::weights::{Dtype, Sink, TensorId, WeightError, cast_bytes, widen_to_f32};

/// Numbers in a block of Q8_0.
const Q8_0_NUMBERS: usize = GgmlType::Q8_0.block_numbers;

/// Bytes of a block of Q8_0: a scale, and as many bytes as numbers.
const Q8_0_BYTES: usize = GgmlType::Q8_0.block_bytes;

/// Turns runs of whole numbers of one type into another and hands them on.
pub(super) struct Encoder<'a, 'b> {
    id: TensorId,
    from: Dtype,
    to: GgufFileType,
    sink: &'a mut Sink<'b>,
    values: Vec<f32>,
    encoded: Vec<u8>,
}

impl<'a, 'b> Encoder<'a, 'b> {
    /// For the weight `id`, whose numbers are of type `from`.
    ///
    /// # Errors
    /// [`WeightError::NotComputable`] if these are no floating-point numbers.
    pub fn new(id: TensorId, from: Dtype, to: GgufFileType, sink: &'a mut Sink<'b>) -> Result<Self, WeightError> {
        if !from.is_float() {
            return Err(WeightError::NotComputable {
                id,
                found: from,
                expected: "floating-point numbers to write as GGUF",
            });
        }
        Ok(Self { id, from, to, sink, values: Vec::new(), encoded: Vec::new() })
    }

    /// The next numbers; for Q8_0, whole blocks of them.
    ///
    /// # Errors
    /// [`WeightError::NotWritable`] for the first number that the type cannot hold: one that would become infinite, and in
    /// Q8_0 also infinity and NaN; what the sink returns.
    pub fn push(&mut self, numbers: &[u8]) -> Result<(), WeightError> {
        self.encoded.clear();
        let dtype = match self.to {
            GgufFileType::F32 => Dtype::Float32,
            GgufFileType::F16 => Dtype::Float16,
            GgufFileType::Bf16 => Dtype::Bfloat16,
            GgufFileType::Q8_0 => {
                self.values.clear();
                widen_to_f32(numbers, self.from, &mut self.values);
                let unwritable = |found| WeightError::NotWritable { id: self.id, found, file_type: "Q8_0" };
                for block in self.values.as_chunks::<Q8_0_NUMBERS>().0 {
                    self.encoded.extend(q8_0(block).map_err(unwritable)?);
                }
                return (self.sink)(&self.encoded);
            }
        };
        cast_bytes(numbers, self.from, dtype, &mut self.encoded);
        if dtype != self.from
            && let Some(found) = self.new_infinity(numbers, dtype)
        {
            return Err(WeightError::NotWritable { id: self.id, found, file_type: dtype_name(dtype) });
        }
        (self.sink)(&self.encoded)
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

fn dtype_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::Float16 => "F16",
        Dtype::Bfloat16 => "BF16",
        _ => "F32",
    }
}

/// A block of Q8_0: the scale `d = max |x| / 127`, then each `x / d` rounded to nearest, ties away from zero; the bytes of
/// ggml's `quantize_row_q8_0_ref`.
///
/// # Errors
/// The first number that is not finite, or one so large that half precision cannot hold the scale.
fn q8_0(block: &[f32; Q8_0_NUMBERS]) -> Result<[u8; Q8_0_BYTES], f32> {
    if let Some(&found) = block.iter().find(|value| !value.is_finite()) {
        return Err(found);
    }
    let largest = block.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let scale = largest / 127.0;
    let stored = f16::from_f32(scale);
    if stored.is_infinite() {
        return Err(largest);
    }
    // Of the smallest numbers the inverse is infinite; their scale is stored as 0, whatever stands beside it.
    let inverse = if scale == 0.0 || (1.0 / scale).is_infinite() { 0.0 } else { 1.0 / scale };
    let mut bytes = [0; Q8_0_BYTES];
    bytes[..2].copy_from_slice(&stored.to_le_bytes());
    for (byte, value) in bytes[2..].iter_mut().zip(block) {
        *byte = (value * inverse).round() as i8 as u8;
    }
    Ok(bytes)
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
