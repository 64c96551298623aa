//! AdamW on libtorch, in place.

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;
use tch::Kind;

use super::{AdamWOps, AdamWStep};
use crate::kernel::torch::owned;

impl AdamWOps for LibTorch {
    fn adamw_update(
        param: TchTensor,
        moment1: TchTensor,
        moment2: TchTensor,
        grad: TchTensor,
        step: AdamWStep,
    ) -> (TchTensor, TchTensor, TchTensor) {
        let [mut param, mut moment1, mut moment2] = [param, moment1, moment2].map(owned);
        let (correction1, correction2) = step.corrections();
        let grad = grad.tensor * step.gradient_scale;
        let _ = moment1.tensor.lerp_(&grad, 1.0 - step.beta1);
        let _ = moment2.tensor.g_mul_scalar_(step.beta2);
        let _ = moment2.tensor.addcmul_(&grad, &(&grad * (1.0 - step.beta2)));
        let mut root = moment2.tensor.sqrt();
        let _ = root.g_mul_scalar_(correction2.sqrt());
        let _ = root.g_add_scalar_(step.epsilon);
        let _ = param.tensor.g_mul_scalar_(1.0 - step.learning_rate * step.weight_decay);
        let _ = param.tensor.addcdiv_(&(&moment1.tensor * (-step.learning_rate * correction1)), &root);
        (param, moment1, moment2)
    }

    /// One chunk: libtorch adds pairwise, so the rounding of its float32 sum grows with the logarithm of the length.
    fn squares_by_chunk(x: TchTensor) -> TchTensor {
        TchTensor::new(x.tensor.square().sum(Kind::Float).reshape([1]))
    }
}
