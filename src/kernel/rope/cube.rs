//! Rotary position embedding in CubeCL: one unit per pair. The gradient is rotated by the negative angle.

use burn::backend::{Cube, TensorMetadata};
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::{Rope, RopeBackward};
use crate::kernel::cube::{empty_like, float_input, output, unit_for_each};

#[cube(launch)]
fn turn(
    x: &[f32],
    cos: &[f32],
    sin: &[f32],
    y: &mut [f32],
    num_pairs: usize,
    num_heads: usize,
    half: usize,
    num_angles: usize,
    direction: f32,
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
    let (a, b) = (x[first], x[first + half]);
    y[first] = a * cos - b * sin;
    y[first + half] = b * cos + a * sin;
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
        float_input(x),
        float_input(cos),
        float_input(sin),
        output(&y),
        num_pairs,
        num_heads,
        half,
        rows * seq_length,
        direction,
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
