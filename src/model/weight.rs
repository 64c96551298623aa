//! A matrix of a model, in the form that it is kept in.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::load::raw;
use crate::kernel::projections;
use crate::kernel::quantized_linear::QuantizedMatrix;
use crate::weights::{Dtype, RawTensor};

/// `[rows, cols]`, trainable as floats, or frozen in blocks of integers.
#[derive(Module, Debug)]
pub enum Weight {
    /// Floats; they can be trained.
    Float(Param<Tensor<2>>),
    /// Blocks; they cannot, and no visitor of parameters meets them.
    Quantized(Quantized),
}

/// A matrix in blocks, shared by the layers that have the same.
#[derive(Module, Debug)]
pub struct Quantized {
    #[module(skip)]
    pub(super) matrix: Arc<QuantizedMatrix>,
}

impl Weight {
    /// What kernels take.
    pub(super) fn val(&self) -> projections::Weight {
        match self {
            Self::Float(param) => projections::Weight::Float(param.val()),
            Self::Quantized(Quantized { matrix }) => projections::Weight::Quantized(matrix.clone()),
        }
    }

    /// The numbers, in the type they are kept in; those of blocks in float32.
    pub(super) fn raw(&self) -> RawTensor {
        match self {
            Self::Float(param) => raw(param.val()),
            Self::Quantized(Quantized { matrix }) => raw_of_blocks(matrix),
        }
    }
}

/// The numbers of a matrix in blocks.
pub(super) fn raw_of_blocks(matrix: &QuantizedMatrix) -> RawTensor {
    RawTensor::from_f32(Dtype::Float32, matrix.dims().to_vec(), &matrix.dequantize())
}
