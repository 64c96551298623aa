//! Type, shape and position of a tensor in a file.

use std::ops::Range;

use ::safetensors::Dtype as StoredDtype;

use crate::weights::Dtype;

/// A tensor as the header describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Number format, which decoders need not support.
    pub dtype: StoredDtype,
    /// Sizes of the axes, slowest first.
    pub shape: Vec<usize>,
    /// First byte, counted from the end of the header.
    pub begin: u64,
    /// Byte after the last.
    pub end: u64,
}

impl TensorInfo {
    /// The bytes of the tensor, counted from the end of the header.
    pub fn span(&self) -> Range<u64> {
        self.begin..self.end
    }

    /// The number format, if weights can have it: one of whole bytes.
    pub fn weight_dtype(&self) -> Option<Dtype> {
        match self.dtype {
            StoredDtype::F64 => Some(Dtype::Float64),
            StoredDtype::F32 => Some(Dtype::Float32),
            StoredDtype::F16 => Some(Dtype::Float16),
            StoredDtype::BF16 => Some(Dtype::Bfloat16),
            StoredDtype::F8_E4M3 => Some(Dtype::Float8E4m3),
            StoredDtype::F8_E5M2 => Some(Dtype::Float8E5m2),
            StoredDtype::I64 => Some(Dtype::Int64),
            StoredDtype::I32 => Some(Dtype::Int32),
            StoredDtype::I16 => Some(Dtype::Int16),
            StoredDtype::I8 => Some(Dtype::Int8),
            StoredDtype::U64 => Some(Dtype::Uint64),
            StoredDtype::U32 => Some(Dtype::Uint32),
            StoredDtype::U16 => Some(Dtype::Uint16),
            StoredDtype::U8 => Some(Dtype::Uint8),
            StoredDtype::BOOL => Some(Dtype::Bool),
            _ => None,
        }
    }
}
