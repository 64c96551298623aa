//! The gradients of attention: with `p` a weight and `s` its score, `ds = p·(dy·v − dy·y)`.

use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::plan::Plan;
use super::tile::{Sizes, Vectors, accumulate, dot, load, scores, store, vectors, zeros};
use crate::kernel::cube::{float_input, input, typed_input};

/// The logsumexp of each row, and its `dy·y`: they are one buffer, as devices have few. A unit has a row.
#[cube(launch)]
pub fn of_rows<F: Float>(
    grad: &[F],
    y: &[F],
    logsumexp: &[f32],
    rows: &mut [f32],
    num_rows: usize,
    #[comptime] head_dim: usize,
    #[define(F)] _dtype: ElemType,
) {
    let row = ABSOLUTE_POS;
    if row >= num_rows {
        terminate!();
    }
    let mut along = 0.0f32;
    for i in row * head_dim..(row + 1) * head_dim {
        along += f32::cast_from(grad[i]) * f32::cast_from(y[i]);
    }
    rows[2 * row] = logsumexp[row];
    rows[2 * row + 1] = along;
}

/// What the gradients of queries, keys and values are computed from: those of the results, what the forward pass read, and the
/// numbers of [`of_rows`].
#[derive(CubeType, CubeLaunch)]
pub struct GradientInputs<F: Float> {
    pub grad: Box<[F]>,
    pub q: Box<[F]>,
    pub k: Box<[F]>,
    pub v: Box<[F]>,
    pub bounds: Box<[i32]>,
    pub rows: Box<[f32]>,
}

/// The argument of a kernel. Keys, values and `grad` have the type of queries.
pub fn gradient_inputs<F: Float>(
    plan: &Plan,
    grad: &CubeTensor,
    [q, k, v]: [&CubeTensor; 3],
    rows: &CubeTensor,
) -> GradientInputsLaunch<F> {
    let [grad, k, v] = [grad, k, v].map(|x| typed_input(x, q.dtype));
    GradientInputsLaunch::new(grad, input(q), k, v, input(&plan.bounds), float_input(rows))
}

/// `dq`. Units are those of the forward pass.
#[cube(launch)]
pub fn of_queries<F: Float>(inputs: GradientInputs<F>, dq: &mut [F], sizes: Sizes, #[define(F)] _dtype: ElemType) {
    let (lane, lane_row) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let first_row = CUBE_POS_X as usize * sizes.tile;
    let row = first_row + lane_row;
    let (first, end) = sizes.seen(&inputs.bounds, row);
    let (tile_first, tile_end) = sizes.seen_by_tile(&inputs.bounds, first_row);
    let mut keys = vectors(&sizes);
    let mut values = vectors(&sizes);
    let mut dscores = scores(&sizes);
    let mut sums = zeros(&sizes);
    for start in range_stepped(tile_first, tile_end, sizes.tile) {
        load::<F>(&mut keys, &inputs.k, start, tile_end, &sizes, Vectors::Keys);
        load::<F>(&mut values, &inputs.v, start, tile_end, &sizes, Vectors::Keys);
        sync_cube();
        let key = start + lane;
        let mut dscore = 0.0f32;
        if key >= first && key < end {
            let place = sizes.place(row);
            let score = dot::<F>(&inputs.q, place, &keys, lane, &sizes) * sizes.scale;
            let dweight = dot::<F>(&inputs.grad, place, &values, lane, &sizes);
            dscore = (score - inputs.rows[2 * place]).exp() * (dweight - inputs.rows[2 * place + 1]);
        }
        dscores[lane_row * sizes.tile + lane] = dscore;
        sync_cube();
        accumulate(&mut sums, &dscores, lane_row, &keys, &sizes);
        sync_cube();
    }
    if row < sizes.num_rows() {
        store::<F>(dq, sizes.place(row), &sums, sizes.scale, &sizes);
    }
}

/// `dk` and `dv`. Unit `(x, y)` has key `y`: its score with row `x` of each tile, and every `tile`-th column of the results.
#[cube(launch)]
pub fn of_keys<F: Float>(
    inputs: GradientInputs<F>,
    dk: &mut [F],
    dv: &mut [F],
    sizes: Sizes,
    #[define(F)] _dtype: ElemType,
) {
    let (lane, lane_key) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let first_key = CUBE_POS_X as usize * sizes.tile;
    let key = first_key + lane_key;
    let mut queries = vectors(&sizes);
    let mut grads = vectors(&sizes);
    let mut weights = scores(&sizes);
    let mut dscores = scores(&sizes);
    let mut key_sums = zeros(&sizes);
    let mut value_sums = zeros(&sizes);
    for first_row in range_stepped(0usize, sizes.num_rows(), sizes.tile) {
        let (tile_first, tile_end) = sizes.seen_by_tile(&inputs.bounds, first_row);
        if tile_first < first_key + sizes.tile && tile_end > first_key {
            load::<F>(&mut queries, &inputs.q, first_row, sizes.num_rows(), &sizes, Vectors::Rows);
            load::<F>(&mut grads, &inputs.grad, first_row, sizes.num_rows(), &sizes, Vectors::Rows);
            sync_cube();
            let (first, end) = sizes.seen(&inputs.bounds, first_row + lane);
            let mut weight = 0.0f32;
            let mut dscore = 0.0f32;
            if key >= first && key < end {
                let place = sizes.place(first_row + lane);
                let score = dot::<F>(&inputs.k, sizes.key(key), &queries, lane, &sizes) * sizes.scale;
                let dweight = dot::<F>(&inputs.v, sizes.key(key), &grads, lane, &sizes);
                weight = (score - inputs.rows[2 * place]).exp();
                dscore = weight * (dweight - inputs.rows[2 * place + 1]);
            }
            weights[lane_key * sizes.tile + lane] = weight;
            dscores[lane_key * sizes.tile + lane] = dscore;
            sync_cube();
            // With those of values first, a register is spilled on sm_80 for heads of 96 in bfloat16.
            accumulate(&mut key_sums, &dscores, lane_key, &queries, &sizes);
            accumulate(&mut value_sums, &weights, lane_key, &grads, &sizes);
            sync_cube();
        }
    }
    if key < sizes.capacity {
        store::<F>(dk, sizes.key(key), &key_sums, sizes.scale, &sizes);
        store::<F>(dv, sizes.key(key), &value_sums, 1.0f32, &sizes);
    }
}
