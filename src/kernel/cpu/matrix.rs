//! A weight matrix as it is stored, float or quantized.

use std::ops::Range;

use super::quantized::QuantizedMatrix;
use super::weight_rows::WeightRows;

/// A weight matrix `[n, k]`, read in place.
#[derive(Clone, Copy)]
pub(in crate::kernel) enum Matrix<'a> {
    /// Row-major f32, f16 or bf16.
    Rows(WeightRows<'a>),
    /// Quantized blocks.
    Quantized(&'a QuantizedMatrix),
}

impl Matrix<'_> {
    /// Number of rows; `None` if the rows do not have `k` elements.
    pub(in crate::kernel) fn rows(self, k: usize) -> Option<usize> {
        match self {
            Self::Rows(w) => w.len().is_multiple_of(k).then(|| w.len() / k),
            Self::Quantized(w) => Some(w.dims()).filter(|dims| dims[1] == k).map(|dims| dims[0]),
        }
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.addresses().len()
    }

    /// Address range of the elements.
    pub(super) fn addresses(&self) -> Range<usize> {
        let range = match self {
            Self::Rows(w) => w.as_ptr_range(),
            Self::Quantized(w) => w.as_ptr_range(),
        };
        range.start.addr()..range.end.addr()
    }
}
