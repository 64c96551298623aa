//! Rounds streamed numbers to the type of a file, and checks that they are finite.

use crate::config::DecoderConfig;
use crate::weights::{Dtype, Recipe, Sink, TensorId, WeightError, WeightSource, cast_bytes};

/// How to treat values that a weight should not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Strictness {
    /// Write infinities and NaN instead of refusing them.
    pub allow_nonfinite: bool,
    /// Write the largest number of the type in place of a larger one instead of refusing it.
    pub saturate: bool,
}

/// Rounds the pieces of one tensor in turn.
#[derive(Debug)]
pub(crate) struct Rounding {
    id: TensorId,
    from: Dtype,
    to: Dtype,
    strictness: Strictness,
    position: usize,
    rounded: Vec<u8>,
}

impl Rounding {
    /// Rounds the weight `id`.
    pub fn new(id: TensorId, from: Dtype, to: Dtype, strictness: Strictness) -> Self {
        Self { id, from, to, strictness, position: 0, rounded: Vec::new() }
    }

    /// The piece in the type to write; unchanged if it has that type.
    pub fn round<'b>(&'b mut self, piece: &'b [u8]) -> Result<&'b [u8], WeightError> {
        if !self.strictness.allow_nonfinite
            && let Some((index, value)) = first_not_finite(piece, self.from)
        {
            return Err(WeightError::NotFinite { id: self.id, index: self.position + index, value });
        }
        let count = piece.len() / self.from.size_bytes();
        if self.from == self.to {
            self.position += count;
            return Ok(piece);
        }
        self.rounded.clear();
        cast_bytes(piece, self.from, self.to, &mut self.rounded);
        self.handle_overflows(piece)?;
        self.position += count;
        Ok(&self.rounded)
    }

    /// Handles finite numbers that rounding made infinite.
    fn handle_overflows(&mut self, piece: &[u8]) -> Result<(), WeightError> {
        let (wide, narrow) = (self.from.size_bytes(), self.to.size_bytes());
        let mut at = 0;
        while let Some((index, infinite)) = first_not_finite(&self.rounded[at * narrow..], self.to) {
            at += index;
            let original = value(&piece[at * wide..][..wide], self.from);
            if original.is_finite() {
                if !self.strictness.saturate {
                    let (id, index, dtype) = (self.id, self.position + at, self.to);
                    return Err(WeightError::Overflow { id, index, value: original, dtype });
                }
                let largest = largest(self.to, infinite < 0.0);
                self.rounded[at * narrow..][..narrow].copy_from_slice(&largest[..narrow]);
            }
            at += 1;
        }
        Ok(())
    }
}

/// A source whose weights are checked for infinities and NaN while they are read, unless those are allowed.
#[derive(Debug)]
pub struct Finite<S> {
    source: S,
    strictness: Strictness,
}

impl<S: WeightSource> Finite<S> {
    /// Checks the weights of `source`.
    pub fn new(source: S, allow_nonfinite: bool) -> Self {
        Self { source, strictness: Strictness { allow_nonfinite, saturate: false } }
    }
}

impl<S: WeightSource> WeightSource for Finite<S> {
    fn config(&self) -> &DecoderConfig {
        self.source.config()
    }

    fn dtype(&self, id: TensorId) -> Dtype {
        self.source.dtype(id)
    }

    fn stream(&self, id: TensorId, sink: &mut Sink<'_>) -> Result<(), WeightError> {
        let dtype = self.source.dtype(id);
        let mut rounding = Rounding::new(id, dtype, dtype, self.strictness);
        self.source.stream(id, &mut |piece| sink(rounding.round(piece)?))
    }

    fn lineage(&self, id: TensorId) -> Recipe {
        self.source.lineage(id)
    }
}

/// Index and value of the first infinity or NaN; integers have none.
fn first_not_finite(bytes: &[u8], dtype: Dtype) -> Option<(usize, f64)> {
    let size = dtype.size_bytes();
    let index = match dtype {
        Dtype::Float64 => position::<8>(bytes, |b| !f64::from_le_bytes(b).is_finite()),
        Dtype::Float32 => position::<4>(bytes, |b| u32::from_le_bytes(b) & 0x7f80_0000 == 0x7f80_0000),
        Dtype::Float16 => position::<2>(bytes, |b| u16::from_le_bytes(b) & 0x7c00 == 0x7c00),
        Dtype::Bfloat16 => position::<2>(bytes, |b| u16::from_le_bytes(b) & 0x7f80 == 0x7f80),
        Dtype::Float8E4m3 => position::<1>(bytes, |[b]| b & 0x7f == 0x7f),
        Dtype::Float8E5m2 => position::<1>(bytes, |[b]| b & 0x7c == 0x7c),
        _ => None,
    }?;
    Some((index, value(&bytes[index * size..][..size], dtype)))
}

/// Scans whole runs without a branch per number, then finds the number in the run.
fn position<const N: usize>(bytes: &[u8], is_bad: impl Fn([u8; N]) -> bool) -> Option<usize> {
    const RUN: usize = 1 << 12;
    let numbers = bytes.as_chunks::<N>().0;
    let run = numbers.chunks(RUN).position(|run| run.iter().fold(false, |any, &b| any | is_bad(b)))?;
    numbers[run * RUN..].iter().position(|&b| is_bad(b)).map(|index| run * RUN + index)
}

fn value(bytes: &[u8], dtype: Dtype) -> f64 {
    if let (Dtype::Float64, Some(&bytes)) = (dtype, bytes.first_chunk()) {
        return f64::from_le_bytes(bytes);
    }
    let mut wide = Vec::with_capacity(1);
    crate::weights::widen_to_f32(bytes, dtype, &mut wide);
    f64::from(wide[0])
}

/// The largest finite number of a type, little-endian.
fn largest(dtype: Dtype, negative: bool) -> [u8; 4] {
    let sign = u32::from(negative);
    match dtype {
        Dtype::Float16 => (0x7bff | sign << 15).to_le_bytes(),
        Dtype::Bfloat16 => (0x7f7f | sign << 15).to_le_bytes(),
        _ => (f32::MAX.to_bits() | sign << 31).to_le_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::RawTensor;

    const LENIENT: Strictness = Strictness { allow_nonfinite: true, saturate: true };

    fn piece(dtype: Dtype, values: &[f32]) -> Vec<u8> {
        RawTensor::from_f32(dtype, vec![values.len()], values).into_bytes()
    }

    #[test]
    fn a_non_finite_number_is_reported_with_its_index() {
        for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut values = vec![1.0; 10_000];
                values[9_876] = bad;
                let mut rounding = Rounding::new(TensorId::Norm, dtype, Dtype::Float32, Strictness::default());
                rounding.round(&piece(dtype, &[1.0; 7])).unwrap();
                let error = rounding.round(&piece(dtype, &values)).unwrap_err();
                assert!(matches!(error, WeightError::NotFinite { index: 9_883, .. }), "{error}");
                let mut lenient = Rounding::new(TensorId::Norm, dtype, Dtype::Bfloat16, LENIENT);
                assert!(lenient.round(&piece(dtype, &values)).is_ok());
            }
        }
    }

    #[test]
    fn a_number_out_of_range_is_refused_or_becomes_the_largest() {
        let values = [65504.0, 65519.0, -65520.0, 1e30];
        let mut strict = Rounding::new(TensorId::Norm, Dtype::Bfloat16, Dtype::Float16, Strictness::default());
        let error = strict.round(&piece(Dtype::Bfloat16, &[1.0, -1e30])).unwrap_err();
        assert!(matches!(error, WeightError::Overflow { index: 1, dtype: Dtype::Float16, .. }), "{error}");
        let mut lenient = Rounding::new(TensorId::Norm, Dtype::Float32, Dtype::Float16, LENIENT);
        let rounded = lenient.round(&piece(Dtype::Float32, &values)).unwrap().to_vec();
        let read = RawTensor::new(Dtype::Float16, vec![4], rounded).to_f32();
        assert_eq!(read, [65504.0, 65504.0, -65504.0, 65504.0]);
    }

    #[test]
    fn infinities_of_the_source_stay_when_they_are_allowed() {
        let mut lenient = Rounding::new(TensorId::Norm, Dtype::Float32, Dtype::Float16, LENIENT);
        let rounded = lenient.round(&piece(Dtype::Float32, &[f32::INFINITY, f32::NAN, 1.0])).unwrap().to_vec();
        let read = RawTensor::new(Dtype::Float16, vec![3], rounded).to_f32();
        assert!(read[0] == f32::INFINITY && read[1].is_nan() && read[2] == 1.0);
    }

    #[test]
    fn an_unchanged_type_keeps_the_bytes() {
        let bytes = [0x01, 0x80, 0xff, 0x00];
        let mut same = Rounding::new(TensorId::Norm, Dtype::Bfloat16, Dtype::Bfloat16, Strictness::default());
        assert_eq!(same.round(&bytes).unwrap(), bytes);
        let mut integers = Rounding::new(TensorId::Norm, Dtype::Int8, Dtype::Int8, Strictness::default());
        assert_eq!(integers.round(&[0x7f, 0xff]).unwrap(), [0x7f, 0xff]);
    }
}
