//! SwiGLU's gate on libtorch.

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;

use super::{SiluMul, SiluMulBackward};

impl SiluMul for LibTorch {
    fn silu_mul(gate: TchTensor, up: TchTensor) -> TchTensor {
        TchTensor::new(gate.tensor.silu().g_mul_(&up.tensor))
    }
}

impl SiluMulBackward for LibTorch {
    fn silu_mul_backward(grad: TchTensor, gate: TchTensor, up: TchTensor) -> (TchTensor, TchTensor) {
        let dgate = gate.tensor.silu_backward(&(&grad.tensor * &up.tensor));
        (TchTensor::new(dgate), TchTensor::new(gate.tensor.silu().g_mul_(&grad.tensor)))
    }
}
