//! The number formats of the matrices of a model.

use crate::kernel::blocks::BlockFormat;
use crate::weights::Dtype;

/// The number formats in which a model keeps and multiplies its matrices. Norms, softmax, losses and sums are float32 in any case, and
/// so are activations, except those of products with bfloat16 weights on GPUs, libtorch and CPUs with AMX, and the factors of products
/// with float16 weights on GPUs ([`linear`](crate::kernel::linear)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Floats of this type. Only float32 can be trained.
    Float(Dtype),
    /// Mixed precision, for training: float32 master weights and gradients; products read weights rounded to bfloat16
    /// (Micikevicius et al., 2018, arXiv:1710.03740, §3.1). For devices that multiply bfloat16 faster: GPUs, and CPUs with AMX.
    Mixed,
    /// Blocks of integers, for inference and under adapters: those of the source, or else rounded to this format, if one is given. Matrices
    /// whose rows are no whole blocks stay float32; so does everything on a device without a kernel for blocks.
    Blocks(Option<BlockFormat>),
}

impl Precision {
    /// Float32: for training, and for inference in full precision.
    pub const FLOAT32: Self = Self::Float(Dtype::Float32);

    /// The precision in which a model of this one is trained: mixed for bfloat16, else float32.
    #[must_use]
    pub fn in_training(self) -> Self {
        match self {
            Self::Float(Dtype::Bfloat16) | Self::Mixed => Self::Mixed,
            Self::Float(_) | Self::Blocks(_) => Self::FLOAT32,
        }
    }

    /// The type of the weights in products, of which blocks count as float32.
    pub fn product_dtype(self) -> Dtype {
        match self {
            Self::Float(dtype) => dtype,
            Self::Mixed => Dtype::Bfloat16,
            Self::Blocks(_) => Dtype::Float32,
        }
    }
}

impl From<Dtype> for Precision {
    fn from(dtype: Dtype) -> Self {
        Self::Float(dtype)
    }
}
