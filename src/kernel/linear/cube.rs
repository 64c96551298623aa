//! Products on devices of CubeCL, by CubeK, and by a kernel of our own where a few rows meet a quantized weight.

use burn::backend::{Cube, TensorMetadata};
use burn::tensor::{DType, Tensor};
use burn_cubecl::tensor::CubeTensor;

use super::{LinearBackward, LinearOps, Operand};
use crate::kernel::cube::{matrix_product, primitive, public, rounded_product};
use crate::kernel::quantized_weight::QuantizedWeight;

impl LinearOps for Cube {
    /// `x` is rounded to bfloat16 if the weight is.
    fn linear_float(x: CubeTensor, weight: CubeTensor) -> CubeTensor {
        let dtype = if x.dtype == DType::BF16 { DType::BF16 } else { DType::F32 };
        of_rows(x, |rows| rounded_product(rows, public::<2>(weight).transpose()).cast(dtype))
    }

    fn linear_weight(x: CubeTensor, weight: Operand<Self>) -> CubeTensor {
        match weight {
            Operand::Float(weight) => Self::linear_float(x, weight),
            Operand::Quantized(weight) => Self::linear_of_blocks(x, &weight),
        }
    }
}

impl LinearBackward for Cube {
    fn input_gradient(grad: CubeTensor, weight: CubeTensor) -> CubeTensor {
        of_rows(grad, |rows| matrix_product(rows, public(weight)))
    }

    fn weight_gradient(grad: CubeTensor, x: CubeTensor, _dtype: DType) -> CubeTensor {
        primitive(matrix_product(rows(grad).transpose(), rows(x)))
    }

    fn linear_of_blocks(x: CubeTensor, weight: &QuantizedWeight) -> CubeTensor {
        of_rows(x, |rows| weight.words().product(rows))
    }

    fn input_gradient_of_blocks(grad: CubeTensor, weight: &QuantizedWeight) -> CubeTensor {
        Self::input_gradient(grad, weight.words().dequantize())
    }
}

impl Operand<Cube> {
    /// The weight as a float tensor, dequantized if necessary.
    pub(in crate::kernel) fn into_tensor(self) -> CubeTensor {
        match self {
            Self::Float(weight) => weight,
            Self::Quantized(weight) => weight.words().dequantize(),
        }
    }
}

/// All axes but the last as one.
fn rows(x: CubeTensor) -> Tensor<2> {
    let shape = x.shape();
    let width = shape[shape.num_dims() - 1];
    let num_rows = shape.num_elements() / width.max(1);
    public::<2>(burn_cubecl::ops::reshape(x, [num_rows, width].into()))
}

/// The result of `f` on the rows of `x`, with the other axes of `x`.
fn of_rows(x: CubeTensor, f: impl FnOnce(Tensor<2>) -> Tensor<2>) -> CubeTensor {
    let mut shape = x.shape();
    let y = primitive(f(rows(x)));
    let last = shape.num_dims() - 1;
    shape[last] = y.shape()[1];
    burn_cubecl::ops::reshape(y, shape)
}
