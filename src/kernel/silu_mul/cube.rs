//! SwiGLU's gate in CubeCL: one unit per element.

use burn::backend::{Cube, TensorMetadata};
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::{SiluMul, SiluMulBackward};
use crate::kernel::cube::{empty_like, float_input, output, unit_for_each};

#[cube(launch)]
fn forward(gate: &[f32], up: &[f32], y: &mut [f32], len: usize) {
    let i = ABSOLUTE_POS;
    if i >= len {
        terminate!();
    }
    let gate = gate[i];
    y[i] = gate / (1.0 + (-gate).exp()) * up[i];
}

#[cube(launch)]
fn backward(grad: &[f32], gate: &[f32], up: &[f32], dgate: &mut [f32], dup: &mut [f32], len: usize) {
    let i = ABSOLUTE_POS;
    if i >= len {
        terminate!();
    }
    let grad = grad[i];
    let gate = gate[i];
    let sigmoid = 1.0 / (1.0 + (-gate).exp());
    dgate[i] = grad * up[i] * sigmoid * (1.0 + gate * (1.0 - sigmoid));
    dup[i] = grad * gate * sigmoid;
}

impl SiluMul for Cube {
    fn silu_mul(gate: CubeTensor, up: CubeTensor) -> CubeTensor {
        let (len, y) = (gate.shape().num_elements(), empty_like(&gate));
        let (cubes, units) = unit_for_each(len, &gate);
        forward::launch(&gate.client, cubes, units, float_input(&gate), float_input(&up), output(&y), len);
        y
    }
}

impl SiluMulBackward for Cube {
    fn silu_mul_backward(grad: CubeTensor, gate: CubeTensor, up: CubeTensor) -> (CubeTensor, CubeTensor) {
        let (len, [dgate, dup]) = (gate.shape().num_elements(), [&gate, &up].map(empty_like));
        let (cubes, units) = unit_for_each(len, &gate);
        backward::launch(
            &gate.client,
            cubes,
            units,
            float_input(&grad),
            float_input(&gate),
            float_input(&up),
            output(&dgate),
            output(&dup),
            len,
        );
        (dgate, dup)
    }
}
