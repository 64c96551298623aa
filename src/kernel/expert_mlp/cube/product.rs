//! Products of the rows of each expert without tensor cores: a cube computes a tile, a unit a part of it in registers.

use burn::backend::DType;
use burn::backend::cubecl::dtype_to_elem_type;
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;
use half::bf16;

use super::operands::{Rows, Weights, row_of, tile_of};
use super::visits::Visits;
use crate::kernel::cube::{float_input, input, output};

/// Columns of a tile of the result.
const TILE: usize = 64;
/// Terms of the sums that are in shared memory at a time.
const DEPTH: usize = 16;
/// Units along columns.
const LANES: usize = 16;
/// Columns of a unit; they are [`LANES`] apart.
const OWN: usize = TILE / LANES;
/// Elements from one row of a tile to the next, odd, so that rows begin in different banks.
const STRIDE: usize = DEPTH + 1;

/// The rows of a tile of the result. An element is the same sum for any number of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Height {
    Full,
    /// For experts of a few rows, as in decoding.
    Low,
}

impl Height {
    const fn rows(self) -> usize {
        match self {
            Self::Full => TILE,
            Self::Low => 8,
        }
    }

    /// Units along rows.
    const fn lanes(self) -> usize {
        match self {
            Self::Full => LANES,
            Self::Low => self.rows(),
        }
    }

    /// Rows of a unit; they are [`lanes`](Self::lanes) apart.
    const fn own(self) -> usize {
        self.rows() / self.lanes()
    }

    const fn num_units(self) -> usize {
        self.lanes() * LANES
    }

    fn units(self) -> CubeDim {
        CubeDim::new_2d(LANES as u32, self.lanes() as u32)
    }
}

/// [`Visits::product`] into `y`, or added to it.
pub fn product(visits: &Visits, x: Rows, weights: Weights, y: &CubeTensor, is_added: bool) {
    let (stack, is_transposed) = (weights.stack(), matches!(weights, Weights::Transposed(_)));
    let (inner, columns) = (x.width(), weights.columns());
    let height = if visits.are_many() { Height::Full } else { Height::Low };
    multiply::launch(
        &y.client,
        visits.tiles(columns, [height.rows(), TILE]),
        height.units(),
        float_input(x.tensor()),
        input(stack),
        input(&visits.order),
        input(&visits.starts),
        output(y),
        visits.num_experts,
        inner,
        columns,
        x.divisor(visits.k),
        is_transposed,
        is_added,
        stack.dtype == DType::BF16,
        height,
        dtype_to_elem_type(stack.dtype),
    );
}

/// [`Visits::outer`] into `y`.
pub fn outer(visits: &Visits, a: Rows, b: Rows, y: &CubeTensor) {
    let (rows, columns) = (a.width(), b.width());
    multiply_outer::launch(
        &y.client,
        CubeCount::Static(columns.div_ceil(TILE) as u32, rows.div_ceil(TILE) as u32, visits.num_experts as u32),
        Height::Full.units(),
        float_input(a.tensor()),
        float_input(b.tensor()),
        input(&visits.order),
        input(&visits.starts),
        output(y),
        rows,
        columns,
        a.divisor(visits.k),
        b.divisor(visits.k),
    );
}

/// The sums of this unit.
#[cube]
fn zeros(#[comptime] height: Height) -> Array<f32> {
    let mut sums = Array::<f32>::new(comptime!(height.own() * OWN));
    #[unroll]
    for i in 0..comptime!(height.own() * OWN) {
        sums[i] = 0.0f32;
    }
    sums
}

/// Adds the products of two tiles.
#[cube]
fn accumulate(sums: &mut Array<f32>, a: &Shared<[f32]>, b: &Shared<[f32]>, #[comptime] height: Height) {
    let (lane, lane_row) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    for depth in 0..DEPTH {
        #[unroll]
        for i in 0..comptime!(height.own()) {
            let x = a[(lane_row + comptime!(i * height.lanes())) * STRIDE + depth];
            #[unroll]
            for j in 0..OWN {
                sums[i * OWN + j] += x * b[(lane + j * LANES) * STRIDE + depth];
            }
        }
    }
}

/// Writes the sums of this unit to the matrix that begins at `matrix`, or adds them to what is there. Rows and columns are the
/// first of the tile and one past the last of the matrix.
#[cube]
fn store(
    y: &mut [f32],
    sums: &Array<f32>,
    matrix: usize,
    rows: (usize, usize),
    columns: (usize, usize),
    #[comptime] is_added: bool,
    #[comptime] height: Height,
) {
    let (first_row, end_row) = rows;
    let (first_column, end_column) = columns;
    #[unroll]
    for i in 0..comptime!(height.own()) {
        #[unroll]
        for j in 0..OWN {
            let row = first_row + UNIT_POS_Y as usize + comptime!(i * height.lanes());
            let column = first_column + UNIT_POS_X as usize + j * LANES;
            if row < end_row && column < end_column {
                let at = matrix + row * end_column + column;
                let mut sum = sums[i * OWN + j];
                if comptime!(is_added) {
                    sum += y[at];
                }
                y[at] = sum;
            }
        }
    }
}

#[cube(launch)]
fn multiply<W: Float>(
    x: &[f32],
    weights: &[W],
    order: &[i32],
    starts: &[i32],
    y: &mut [f32],
    num_experts: usize,
    inner: usize,
    columns: usize,
    #[comptime] divisor: usize,
    #[comptime] is_transposed: bool,
    #[comptime] is_added: bool,
    #[comptime] is_rounded: bool,
    #[comptime] height: Height,
    #[define(W)] _weight: ElemType,
) {
    let (expert, first_row, end) = tile_of(starts, num_experts, comptime!(height.rows()));
    if expert == num_experts {
        terminate!();
    }
    let first_column = CUBE_POS_X as usize * TILE;
    let matrix = expert * inner * columns;
    let mut a = Shared::<[f32]>::new_slice(comptime!(height.rows() * STRIDE));
    let mut b = Shared::<[f32]>::new_slice(comptime!(TILE * STRIDE));
    let mut sums = zeros(height);
    for first in range_stepped(0usize, inner, DEPTH) {
        for i in range_stepped(UNIT_POS as usize, comptime!(height.rows() * DEPTH), comptime!(height.num_units())) {
            let (row, depth) = (i / DEPTH, i % DEPTH);
            let mut value = 0.0f32;
            if first_row + row < end && first + depth < inner {
                value = x[row_of(order, first_row + row, divisor) * inner + first + depth];
                // As on tensor cores.
                if comptime!(is_rounded) {
                    value = f32::cast_from(bf16::cast_from(value));
                }
            }
            a[row * STRIDE + depth] = value;
        }
        for i in range_stepped(UNIT_POS as usize, TILE * DEPTH, comptime!(height.num_units())) {
            // Neighbours in memory go to neighbouring units.
            let mut column = i % TILE;
            let mut depth = i / TILE;
            if comptime!(is_transposed) {
                column = i / DEPTH;
                depth = i % DEPTH;
            }
            let mut value = 0.0f32;
            if first_column + column < columns && first + depth < inner {
                let mut at = (first + depth) * columns + first_column + column;
                if comptime!(is_transposed) {
                    at = (first_column + column) * inner + first + depth;
                }
                value = f32::cast_from(weights[matrix + at]);
            }
            b[column * STRIDE + depth] = value;
        }
        sync_cube();
        accumulate(&mut sums, &a, &b, height);
        sync_cube();
    }
    store(y, &sums, 0usize, (first_row, end), (first_column, columns), is_added, height);
}

#[cube(launch)]
fn multiply_outer(
    a: &[f32],
    b: &[f32],
    order: &[i32],
    starts: &[i32],
    y: &mut [f32],
    rows: usize,
    columns: usize,
    #[comptime] divisor_a: usize,
    #[comptime] divisor_b: usize,
) {
    let (first_row, first_column) = (CUBE_POS_Y as usize * TILE, CUBE_POS_X as usize * TILE);
    let expert = CUBE_POS_Z as usize;
    let (start, end) = (usize::cast_from(starts[expert]), usize::cast_from(starts[expert + 1]));
    let mut tile_a = Shared::<[f32]>::new_slice(comptime!(TILE * STRIDE));
    let mut tile_b = Shared::<[f32]>::new_slice(comptime!(TILE * STRIDE));
    let mut sums = zeros(Height::Full);
    for first in range_stepped(start, end, DEPTH) {
        for i in range_stepped(UNIT_POS as usize, TILE * DEPTH, LANES * LANES) {
            let (column, depth) = (i % TILE, i / TILE);
            let place = first + depth;
            let mut value_a = 0.0f32;
            let mut value_b = 0.0f32;
            if place < end {
                if first_row + column < rows {
                    value_a = a[row_of(order, place, divisor_a) * rows + first_row + column];
                }
                if first_column + column < columns {
                    value_b = b[row_of(order, place, divisor_b) * columns + first_column + column];
                }
            }
            tile_a[column * STRIDE + depth] = value_a;
            tile_b[column * STRIDE + depth] = value_b;
        }
        sync_cube();
        accumulate(&mut sums, &tile_a, &tile_b, Height::Full);
        sync_cube();
    }
    store(y, &sums, expert * rows * columns, (first_row, rows), (first_column, columns), false, Height::Full);
}
