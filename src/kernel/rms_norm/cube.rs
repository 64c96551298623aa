//! RMSNorm in CubeCL: one cube per row; for the gradient of the gain, one unit per column.

use burn::backend::ops::FloatTensorOps;
use burn::backend::{Cube, DType, TensorMetadata};
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::{RmsNorm, RmsNormBackward};
use crate::kernel::cube::{UNITS, cube_for_each, empty, empty_like, float_input, output, sum_of_units};

/// Rows whose part of the gradient of the gain one unit sums.
const ROWS_PER_SUM: usize = 64;

#[cube(launch)]
fn forward(x: &[f32], weight: &[f32], y: &mut [f32], num_rows: usize, epsilon: f32, #[comptime] width: usize) {
    let row = CUBE_POS;
    if row >= num_rows {
        terminate!();
    }
    let (start, end) = (row * width, (row + 1) * width);
    let mut squares = 0.0f32;
    for i in range_stepped(start + UNIT_POS as usize, end, UNITS as usize) {
        let x = x[i];
        squares += x * x;
    }
    let mean = sum_of_units(squares, UNITS) / width as f32;
    let scale = 1.0 / (mean + epsilon).sqrt();
    for i in range_stepped(start + UNIT_POS as usize, end, UNITS as usize) {
        y[i] = x[i] * scale * weight[i - start];
    }
}

/// `dx`, and the scale of each row.
#[cube(launch)]
fn backward(
    grad: &[f32],
    x: &[f32],
    weight: &[f32],
    dx: &mut [f32],
    scales: &mut [f32],
    num_rows: usize,
    epsilon: f32,
    #[comptime] width: usize,
) {
    let row = CUBE_POS;
    if row >= num_rows {
        terminate!();
    }
    let (start, end) = (row * width, (row + 1) * width);
    let mut squares = 0.0f32;
    let mut along = 0.0f32;
    for i in range_stepped(start + UNIT_POS as usize, end, UNITS as usize) {
        let x = x[i];
        squares += x * x;
        along += grad[i] * weight[i - start] * x;
    }
    let mean = sum_of_units(squares, UNITS) / width as f32;
    let scale = 1.0 / (mean + epsilon).sqrt();
    let shrink = sum_of_units(along, UNITS) / width as f32 * scale * scale;
    for i in range_stepped(start + UNIT_POS as usize, end, UNITS as usize) {
        let g = grad[i] * weight[i - start];
        dx[i] = scale * (g - x[i] * shrink);
    }
    if UNIT_POS == 0 {
        scales[row] = scale;
    }
}

/// `Σ dy∘x·r` over the rows of each chunk.
#[cube(launch)]
fn gradient_of_weight(
    grad: &[f32],
    x: &[f32],
    scales: &[f32],
    sums: &mut [f32],
    num_rows: usize,
    #[comptime] width: usize,
) {
    let column = CUBE_POS_X as usize * UNITS as usize + UNIT_POS as usize;
    if column >= width {
        terminate!();
    }
    let first = CUBE_POS_Y as usize * ROWS_PER_SUM;
    let end = min(first + ROWS_PER_SUM, num_rows);
    let mut sum = 0.0f32;
    for row in first..end {
        let i = row * width + column;
        sum += grad[i] * x[i] * scales[row];
    }
    sums[CUBE_POS_Y as usize * width + column] = sum;
}

/// Rows and their width.
fn rows(x: &CubeTensor) -> (usize, usize) {
    let shape = x.shape();
    let width = shape[shape.num_dims() - 1];
    (shape.num_elements() / width, width)
}

impl RmsNorm for Cube {
    fn rms_norm(x: CubeTensor, weight: CubeTensor, epsilon: f32) -> CubeTensor {
        let ((num_rows, width), y) = (rows(&x), empty_like(&x));
        let (cubes, units) = cube_for_each(num_rows, &x);
        forward::launch(
            &x.client,
            cubes,
            units,
            float_input(&x),
            float_input(&weight),
            output(&y),
            num_rows,
            epsilon,
            width,
        );
        y
    }
}

impl RmsNormBackward for Cube {
    fn rms_norm_backward(
        grad: CubeTensor,
        x: CubeTensor,
        weight: CubeTensor,
        epsilon: f32,
        of_weight: bool,
    ) -> (CubeTensor, Option<CubeTensor>) {
        let (num_rows, width) = rows(&x);
        let (dx, scales) = (empty_like(&x), empty([num_rows], DType::F32, &x));
        let (cubes, units) = cube_for_each(num_rows, &x);
        backward::launch(
            &x.client,
            cubes,
            units,
            float_input(&grad),
            float_input(&x),
            float_input(&weight),
            output(&dx),
            output(&scales),
            num_rows,
            epsilon,
            width,
        );
        let dweight = of_weight.then(|| {
            let chunks = num_rows.div_ceil(ROWS_PER_SUM);
            let sums = empty([chunks, width], DType::F32, &x);
            gradient_of_weight::launch(
                &x.client,
                CubeCount::Static(width.div_ceil(UNITS as usize) as u32, chunks as u32, 1),
                CubeDim::new_1d(UNITS),
                float_input(&grad),
                float_input(&x),
                float_input(&scales),
                output(&sums),
                num_rows,
                width,
            );
            Self::float_reshape(Self::float_sum_dim(sums, 0), [width].into())
        });
        (dx, dweight)
    }
}
