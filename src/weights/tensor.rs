//! A weight as bytes: little-endian floats of one type, row-major, with their shape.

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

/// Number format of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// IEEE single precision, 4 bytes.
    Float32,
    /// IEEE half precision, 2 bytes.
    Float16,
    /// The upper half of single precision, 2 bytes.
    Bfloat16,
}

impl Dtype {
    /// Bytes per number.
    pub fn size_bytes(self) -> usize {
        match self {
            Self::Float32 => 4,
            Self::Float16 | Self::Bfloat16 => 2,
        }
    }
}

/// A weight read from a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl RawTensor {
    /// Bytes with the type and shape they have.
    ///
    /// # Panics
    /// If the number of bytes is not `shape.product() · dtype.size_bytes()`.
    pub fn new(dtype: Dtype, shape: Vec<usize>, bytes: Vec<u8>) -> Self {
        let expected = shape.iter().product::<usize>() * dtype.size_bytes();
        assert_eq!(bytes.len(), expected, "{dtype:?} of shape {shape:?} takes {expected} bytes, got {}", bytes.len());
        Self { dtype, shape, bytes }
    }

    /// Rounds `values` to `dtype`, to nearest, ties to even.
    ///
    /// # Panics
    /// If the number of values is not `shape.product()`.
    pub fn from_f32(dtype: Dtype, shape: Vec<usize>, values: &[f32]) -> Self {
        let bytes = match dtype {
            Dtype::Float32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Dtype::Float16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            Dtype::Bfloat16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        };
        Self::new(dtype, shape, bytes)
    }

    /// The numbers, widened; exact for every type.
    pub fn to_f32(&self) -> Vec<f32> {
        match self.dtype {
            Dtype::Float32 => {
                self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            Dtype::Float16 => self.bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            Dtype::Bfloat16 => self.bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        }
    }

    /// The same numbers in another type, rounded to nearest even; the bytes themselves if the type is the same.
    pub fn cast(self, dtype: Dtype) -> Self {
        if dtype == self.dtype {
            return self;
        }
        Self::from_f32(dtype, self.shape.clone(), &self.to_f32())
    }

    /// Number format.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Sizes of the axes, slowest first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The numbers as little-endian bytes, row-major.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes the bytes out, without a copy.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_precision_number_survives_widening_and_rounding() {
        for dtype in [Dtype::Float16, Dtype::Bfloat16] {
            let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
            let tensor = RawTensor::new(dtype, vec![1 << 16], bytes);
            let wide = tensor.to_f32();
            let back = RawTensor::from_f32(dtype, vec![1 << 16], &wide);
            for ((a, b), value) in tensor.bytes().chunks(2).zip(back.bytes().chunks(2)).zip(wide) {
                assert!(a == b || value.is_nan(), "{a:?} became {b:?}");
            }
        }
    }

    #[test]
    fn rounding_goes_to_the_nearest_even_number() {
        // Halfway between two neighbours of 1 in bfloat16, whose spacing there is 2^-7.
        let tensor = RawTensor::from_f32(Dtype::Bfloat16, vec![2], &[1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0]);
        assert_eq!(tensor.to_f32(), [1.0, 1.0 + 4.0 / 256.0]);
    }

    #[test]
    #[should_panic(expected = "takes 8 bytes, got 7")]
    fn bytes_must_fill_the_shape() {
        RawTensor::new(Dtype::Float32, vec![2], vec![0; 7]);
    }
}
