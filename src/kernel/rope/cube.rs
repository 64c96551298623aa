//! Rotary position embedding in CubeCL: one unit per pair. The gradient is rotated by the negative angle.

use burn::backend::cubecl::dtype_to_elem_type;
use burn::backend::{Cube, TensorMetadata};
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::{Rope, RopeBackward};
use crate::kernel::cube::{empty_like, float_input, input, output, unit_for_each};

#[cube(launch)]
fn turn<F: Float>(
    x: &[F],
    cos: &[f32],
    sin: &[f32],
    y: &mut [F],
    num_pairs: usize,
    num_heads: usize,
    half: usize,
    num_angles: usize,
    direction: f32,
    #[define(F)] _dtype: ElemType,
) {
    let pair = ABSOLUTE_POS;
    if pair >= num_pairs {
        terminate!();
    }
    let (vector, column) = (pair / half, pair % half);
    let angle = vector / num_heads % num_angles * half + column;
    let first = vector * 2 * half + column;
    let cos = cos[angle];
    let sin = sin[angle] * direction;
    let (a, b) = (f32::cast_from(x[first]), f32::cast_from(x[first + half]));
    y[first] = F::cast_from(a * cos - b * sin);
    y[first + half] = F::cast_from(b * cos + a * sin);
}

/// Turns forwards for `direction` 1, backwards for -1.
fn turned(x: &CubeTensor, cos: &CubeTensor, sin: &CubeTensor, direction: f32) -> CubeTensor {
    let [_, _, num_heads, head_dim] = x.shape().dims();
    let [rows, seq_length, half] = cos.shape().dims();
    let y = empty_like(x);
    let num_pairs = x.shape().num_elements() / head_dim * half;
    let (cubes, units) = unit_for_each(num_pairs, x);
    turn::launch(
        &x.client,
        cubes,
        units,
        input(x),
        float_input(cos),
        float_input(sin),
        output(&y),
        num_pairs,
        num_heads,
        half,
        rows * seq_length,
        direction,
        dtype_to_elem_type(x.dtype),
    );
    y
}

impl Rope for Cube {
    fn rope_forward(x: CubeTensor, cos: CubeTensor, sin: CubeTensor) -> CubeTensor {
        turned(&x, &cos, &sin, 1.0)
    }
}

impl RopeBackward for Cube {
    fn rope_backward(grad: CubeTensor, cos: CubeTensor, sin: CubeTensor) -> CubeTensor {
        turned(&grad, &cos, &sin, -1.0)
    }
}
