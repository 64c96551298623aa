//! RMSNorm on libtorch.

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;

use super::{RmsNorm, RmsNormBackward};
use crate::kernel::torch::gradients;

fn normalized(x: &tch::Tensor, weight: &tch::Tensor, epsilon: f32) -> tch::Tensor {
    x.rms_norm(weight.size(), Some(weight), f64::from(epsilon))
}

impl RmsNorm for LibTorch {
    fn rms_norm(x: TchTensor, weight: TchTensor, epsilon: f32) -> TchTensor {
        TchTensor::new(normalized(&x.tensor, &weight.tensor, epsilon))
    }
}

impl RmsNormBackward for LibTorch {
    fn rms_norm_backward(
        grad: TchTensor,
        x: TchTensor,
        weight: TchTensor,
        epsilon: f32,
        of_weight: bool,
    ) -> (TchTensor, Option<TchTensor>) {
        if of_weight {
            let [dx, dweight] = gradients([&x, &weight], &grad, |[x, weight]| normalized(x, weight, epsilon));
            return (dx, Some(dweight));
        }
        let [dx] = gradients([&x], &grad, |[x]| normalized(x, &weight.tensor, epsilon));
        (dx, None)
    }
}
