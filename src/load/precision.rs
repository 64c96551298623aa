//! The number formats of the matrices of a model.

use crate::kernel::blocks::BlockFormat;
use crate::weights::Dtype;

/// The number formats in which a model keeps and multiplies its matrices. Activations, norms, routers, softmax, losses and sums are
/// float32 in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Floats of this type. Only float32 can be trained.
    Float(Dtype),
    /// Mixed precision, for training: float32 master weights, rounded to bfloat16 for products, with float32 gradients
    /// (Micikevicius et al., 2018, arXiv:1710.03740, §3.1). For devices that multiply bfloat16 faster; the CPU does not.
    Mixed,
    /// Blocks of integers, for inference and under adapters: those of the source, or else rounded to this format, if one is given. Matrices
    /// whose rows are no whole blocks stay float32; so does everything on a device without a kernel for blocks.
    Blocks(Option<BlockFormat>),
}

impl Precision {
    /// Float32: for training, and for inference in full precision.
    pub const FLOAT32: Self = Self::Float(Dtype::Float32);
}

impl From<Dtype> for Precision {
    fn from(dtype: Dtype) -> Self {
        Self::Float(dtype)
    }
}
