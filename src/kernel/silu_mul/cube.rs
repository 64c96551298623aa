//! SwiGLU's gate in CubeCL: one unit per element.

use burn::backend::cubecl::dtype_to_elem_type;
use burn::backend::{Cube, TensorMetadata};
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::kernel::cast;
use burn_cubecl::tensor::CubeTensor;

use super::{SiluMul, SiluMulBackward};
use crate::kernel::cube::{empty_like, input, output, typed_input, unit_for_each};

#[cube(launch)]
fn forward<F: Float>(gate: &[F], up: &[F], y: &mut [F], len: usize, #[define(F)] _dtype: ElemType) {
    let i = ABSOLUTE_POS;
    if i >= len {
        terminate!();
    }
    let gate = f32::cast_from(gate[i]);
    y[i] = F::cast_from(gate / (1.0 + (-gate).exp()) * f32::cast_from(up[i]));
}

#[cube(launch)]
fn backward<F: Float>(
    grad: &[F],
    gate: &[F],
    up: &[F],
    dgate: &mut [F],
    dup: &mut [F],
    len: usize,
    #[define(F)] _dtype: ElemType,
) {
    let i = ABSOLUTE_POS;
    if i >= len {
        terminate!();
    }
    let grad = f32::cast_from(grad[i]);
    let gate = f32::cast_from(gate[i]);
    let sigmoid = 1.0 / (1.0 + (-gate).exp());
    dgate[i] = F::cast_from(grad * f32::cast_from(up[i]) * sigmoid * (1.0 + gate * (1.0 - sigmoid)));
    dup[i] = F::cast_from(grad * gate * sigmoid);
}

impl SiluMul for Cube {
    fn silu_mul(gate: CubeTensor, up: CubeTensor) -> CubeTensor {
        let (len, y) = (gate.shape().num_elements(), empty_like(&gate));
        let (cubes, units) = unit_for_each(len, &gate);
        forward::launch(
            &gate.client,
            cubes,
            units,
            input(&gate),
            typed_input(&up, gate.dtype),
            output(&y),
            len,
            dtype_to_elem_type(gate.dtype),
        );
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
            input(&cast(grad, gate.dtype)),
            input(&gate),
            typed_input(&up, gate.dtype),
            output(&dgate),
            output(&dup),
            len,
            dtype_to_elem_type(gate.dtype),
        );
        (dgate, dup)
    }
}
