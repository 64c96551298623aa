//! In what numbers a model keeps its weights.

use crate::kernel::blocks::BlockFormat;
use crate::weights::Dtype;

/// In what numbers a loaded model keeps its matrices. Norms, activations, softmax and losses are float32 in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Floats of this type.
    Float(Dtype),
    /// Blocks of integers, for inference: those of the source, or else rounded to this format, if one is given. Routers, and
    /// matrices whose rows are no whole blocks, are float32; so is everything on a device without a kernel for blocks.
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
