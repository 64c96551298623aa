//! A tensor as bytes: little-endian numbers of one type, row-major, with their shape.

use std::fmt;

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

/// Number format of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Dtype {
    /// IEEE double precision, 8 bytes.
    Float64,
    /// IEEE single precision, 4 bytes.
    Float32,
    /// IEEE half precision, 2 bytes.
    Float16,
    /// The upper half of single precision, 2 bytes.
    Bfloat16,
    /// 1 sign, 4 exponent and 3 mantissa bits, no infinity (Micikevicius et al., 2022, arXiv:2209.05433, Table 1).
    #[serde(rename = "float8_e4m3fn")]
    Float8E4m3,
    /// 1 sign, 5 exponent and 2 mantissa bits: the upper half of half precision.
    #[serde(rename = "float8_e5m2")]
    Float8E5m2,
    /// Signed, 8 bytes.
    Int64,
    /// Signed, 4 bytes.
    Int32,
    /// Signed, 2 bytes.
    Int16,
    /// Signed, 1 byte.
    Int8,
    /// Unsigned, 8 bytes.
    Uint64,
    /// Unsigned, 4 bytes.
    Uint32,
    /// Unsigned, 2 bytes.
    Uint16,
    /// Unsigned, 1 byte.
    Uint8,
    /// 0 or 1, 1 byte.
    Bool,
}

impl Dtype {
    /// Bytes per number.
    pub fn size_bytes(self) -> usize {
        match self {
            Self::Float64 | Self::Int64 | Self::Uint64 => 8,
            Self::Float32 | Self::Int32 | Self::Uint32 => 4,
            Self::Float16 | Self::Bfloat16 | Self::Int16 | Self::Uint16 => 2,
            Self::Float8E4m3 | Self::Float8E5m2 | Self::Int8 | Self::Uint8 | Self::Bool => 1,
        }
    }

    /// Whether this is a floating-point type, which can be widened to [`Dtype::Float32`].
    pub fn is_float(self) -> bool {
        matches!(
            self,
            Self::Float64 | Self::Float32 | Self::Float16 | Self::Bfloat16 | Self::Float8E4m3 | Self::Float8E5m2
        )
    }

    /// Whether decoders compute with this type, so that weights can be rounded to it.
    pub fn is_computed_with(self) -> bool {
        matches!(self, Self::Float32 | Self::Float16 | Self::Bfloat16)
    }
}

/// The spelling of Hugging Face's files: `float32`, `bfloat16`.
impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.serialize(f)
    }
}

/// A tensor in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl RawTensor {
    /// Bytes with their type and shape.
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
    /// If the number of values is not `shape.product()`, or decoders do not compute with `dtype`.
    pub fn from_f32(dtype: Dtype, shape: Vec<usize>, values: &[f32]) -> Self {
        let mut bytes = Vec::with_capacity(values.len() * dtype.size_bytes());
        round_f32(values, dtype, &mut bytes);
        Self::new(dtype, shape, bytes)
    }

    /// The numbers in single precision. Exact except for [`Dtype::Float64`], which is rounded.
    ///
    /// # Panics
    /// If these are not floating-point numbers.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.shape.iter().product());
        widen_to_f32(&self.bytes, self.dtype, &mut values);
        values
    }

    /// The numbers rounded to another type, to nearest, ties to even. The bytes are unchanged if the type is the same.
    ///
    /// # Panics
    /// If the type differs, and these are not floating-point numbers or decoders do not compute with `dtype`.
    pub fn cast(self, dtype: Dtype) -> Self {
        if dtype == self.dtype {
            return self;
        }
        let mut bytes = Vec::with_capacity(self.bytes.len() / self.dtype.size_bytes() * dtype.size_bytes());
        cast_bytes(&self.bytes, self.dtype, dtype, &mut bytes);
        Self::new(dtype, self.shape, bytes)
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

    /// The bytes, without a copy.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Appends the numbers in `bytes` to `values`. Panics if they are not floating-point numbers.
pub(crate) fn widen_to_f32(bytes: &[u8], dtype: Dtype, values: &mut Vec<f32>) {
    let pairs = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
    match dtype {
        Dtype::Float64 => values.extend(doubles(bytes).map(|v| v as f32)),
        Dtype::Float32 => values.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
        Dtype::Float16 => values.extend(pairs().map(|b| f16::from_le_bytes(b).to_f32())),
        Dtype::Bfloat16 => values.extend(pairs().map(|b| bf16::from_le_bytes(b).to_f32())),
        Dtype::Float8E4m3 => values.extend(bytes.iter().map(|&b| e4m3_to_f32(b))),
        Dtype::Float8E5m2 => values.extend(bytes.iter().map(|&b| f16::from_le_bytes([0, b]).to_f32())),
        _ => panic!("{dtype} is not a floating-point type"),
    }
}

/// Appends `values` to `bytes`, rounded to nearest even. Panics if decoders do not compute with `dtype`.
pub(crate) fn round_f32(values: &[f32], dtype: Dtype, bytes: &mut Vec<u8>) {
    match dtype {
        Dtype::Float32 => bytes.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        Dtype::Float16 => bytes.extend(values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes())),
        Dtype::Bfloat16 => bytes.extend(values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes())),
        _ => panic!("decoders do not compute with {dtype}"),
    }
}

/// Appends the numbers in `bytes` to `out` in another type, each rounded once. Panics as the two above.
pub(crate) fn cast_bytes(bytes: &[u8], from: Dtype, to: Dtype, out: &mut Vec<u8>) {
    match (from, to) {
        _ if from == to => out.extend_from_slice(bytes),
        (Dtype::Float64, Dtype::Float16 | Dtype::Bfloat16) => {
            let values: Vec<f32> = doubles(bytes).map(rounded_to_odd).collect();
            round_f32(&values, to, out);
        }
        _ => {
            let mut values = Vec::with_capacity(bytes.len() / from.size_bytes());
            widen_to_f32(bytes, from, &mut values);
            round_f32(&values, to, out);
        }
    }
}

fn doubles(bytes: &[u8]) -> impl Iterator<Item = f64> {
    bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b))
}

/// Rounds to single precision, to odd if inexact. Rounding the result again to fewer bits equals rounding the double once
/// (Boldo and Melquiond, 2008, doi:10.1109/TC.2007.70819).
fn rounded_to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    if f64::from(nearest) == value || value.is_nan() {
        return nearest;
    }
    let towards_zero = nearest.to_bits() - u32::from(f64::from(nearest).abs() > value.abs());
    f32::from_bits(towards_zero | 1)
}

fn e4m3_to_f32(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 8.0 * 2f32.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if byte >> 7 == 1 { -magnitude } else { magnitude }
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
    fn eight_bit_numbers_are_those_of_their_table() {
        let wide = |dtype, byte| RawTensor::new(dtype, vec![1], vec![byte]).to_f32()[0];
        let e4m3 = [(0x01, 2f32.powi(-9)), (0x08, 2f32.powi(-6)), (0x38, 1.0), (0x7e, 448.0), (0xfe, -448.0)];
        for (byte, value) in e4m3 {
            assert_eq!(wide(Dtype::Float8E4m3, byte), value, "{byte:#x}");
        }
        assert!(wide(Dtype::Float8E4m3, 0x7f).is_nan());
        for (byte, value) in [(0x01, 2f32.powi(-16)), (0x3c, 1.0), (0x7b, 57344.0), (0xfc, f32::NEG_INFINITY)] {
            assert_eq!(wide(Dtype::Float8E5m2, byte), value, "{byte:#x}");
        }
    }

    #[test]
    fn double_precision_is_rounded_once() {
        // Rounded to single precision first, this would lie halfway between two numbers of bfloat16, and go down.
        let value = 1.0 + 1.0 / 256.0 + 2f64.powi(-40);
        let tensor = RawTensor::new(Dtype::Float64, vec![1], value.to_le_bytes().to_vec());
        assert_eq!(tensor.clone().cast(Dtype::Bfloat16).to_f32(), [1.0 + 1.0 / 128.0]);
        for (double, half) in [(1e300, f32::INFINITY), (-65519.99, -65504.0), (65520.0, f32::INFINITY), (1e-300, 0.0)] {
            let tensor = RawTensor::new(Dtype::Float64, vec![1], f64::to_le_bytes(double).to_vec());
            assert_eq!(tensor.cast(Dtype::Float16).to_f32(), [half], "{double}");
        }
        assert_eq!(tensor.cast(Dtype::Float32).to_f32(), [1.0 + 1.0 / 256.0]);
    }

    #[test]
    #[should_panic(expected = "takes 8 bytes, got 7")]
    fn bytes_must_fill_the_shape() {
        RawTensor::new(Dtype::Float32, vec![2], vec![0; 7]);
    }
}
