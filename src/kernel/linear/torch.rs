//! Products on libtorch. Quantized weights are dequantized there, as [`QuantizedWeight`] keeps them.

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;
use burn::tensor::DType;
use tch::Tensor;

use super::{LinearBackward, LinearOps, Operand};
use crate::kernel::quantized_weight::QuantizedWeight;
use crate::kernel::torch::product;

impl LinearOps for LibTorch {
    fn linear_float(x: TchTensor, weight: TchTensor) -> TchTensor {
        TchTensor::new(product(&x.tensor, &weight.tensor.tr()))
    }

    fn linear_weight(x: TchTensor, weight: Operand<Self>) -> TchTensor {
        Self::linear_float(x, weight.into_tensor())
    }
}

impl LinearBackward for LibTorch {
    fn input_gradient(grad: TchTensor, weight: TchTensor) -> TchTensor {
        TchTensor::new(product(&grad.tensor, &weight.tensor))
    }

    fn weight_gradient(grad: TchTensor, x: TchTensor, _dtype: DType) -> TchTensor {
        TchTensor::new(product(&rows(&grad.tensor).tr(), &rows(&x.tensor)))
    }

    fn linear_of_blocks(x: TchTensor, weight: &QuantizedWeight) -> TchTensor {
        Self::linear_float(x, dequantized(weight))
    }

    fn input_gradient_of_blocks(grad: TchTensor, weight: &QuantizedWeight) -> TchTensor {
        Self::input_gradient(grad, dequantized(weight))
    }
}

impl Operand<LibTorch> {
    /// The weight as a float tensor, without a copy.
    pub(in crate::kernel) fn into_tensor(self) -> TchTensor {
        match self {
            Self::Float(weight) => weight,
            Self::Quantized(weight) => dequantized(&weight),
        }
    }
}

fn dequantized(weight: &QuantizedWeight) -> TchTensor {
    let weight = weight.dequantize().without_autodiff();
    weight.try_into_primitive::<LibTorch>().expect("a weight on the device of the activations")
}

/// All axes but the last as one.
fn rows(x: &Tensor) -> Tensor {
    x.flatten(0, -2)
}
