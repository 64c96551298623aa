//! The products of `product.rs` on tensor cores: factors rounded to bfloat16, sums in float32.
//!
//! A plane has `ROWS_OF_PLANE × COLUMNS_OF_PLANE` of the result in fragments of `SIDE × SIDE`. Fragments cannot be written with
//! bounds, so each passes shared memory on its way out.

use burn::backend::DType;
use burn_cubecl::cubecl::{self, client::Client, cmma, prelude::*};
use burn_cubecl::tensor::CubeTensor;
use half::bf16;

use super::operands::{Rows, Weights, row_of, tile_of};
use super::visits::Visits;
use crate::kernel::cube::tensor_cores::{self, ALIGNMENT, PADDING_BYTES, PLANE, SIDE, zeros};
use crate::kernel::cube::{float_input, input, output};

/// Rows and columns of a tile of the result.
const TILE: usize = 128;
/// Terms of the sums that are in shared memory at a time.
const DEPTH: usize = 32;
const ROWS_OF_PLANE: usize = 32;
const COLUMNS_OF_PLANE: usize = 64;
/// Planes along the columns of a tile.
const PLANES_ALONG: usize = TILE / COLUMNS_OF_PLANE;
const NUM_PLANES: usize = TILE / ROWS_OF_PLANE * PLANES_ALONG;
const UNITS: usize = NUM_PLANES * PLANE;
/// Fragments of a plane, row by row.
const NUM_FRAGMENTS: usize = ROWS_OF_PLANE * COLUMNS_OF_PLANE / (SIDE * SIDE);

/// Whether products of that many visits by such weights run here.
pub fn serves(visits: &Visits, weights: DType, client: &Client) -> bool {
    let shared_bytes = 2 * 2 * max_elements() + 4 * NUM_PLANES * SIDE * SIDE;
    weights == DType::BF16 && visits.are_many() && tensor_cores::are_present(client, NUM_PLANES, shared_bytes)
}

fn units() -> CubeDim {
    CubeDim::new_2d(PLANE as u32, NUM_PLANES as u32)
}

/// [`Visits::product`] into `y`, or added to it.
pub fn product(visits: &Visits, x: Rows, weights: Weights, y: &CubeTensor, is_added: bool) {
    let (stack, columns) = (weights.stack(), weights.columns());
    let inner = x.width();
    let lines = match weights {
        Weights::Plain(_) => Lines::OfTerms,
        Weights::Transposed(_) => Lines::OfResult,
    };
    multiply_on_tensor_cores::launch(
        &y.client,
        visits.tiles(columns, [TILE; 2]),
        units(),
        float_input(x.tensor()),
        input(stack),
        input(&visits.order),
        input(&visits.starts),
        output(y),
        visits.num_experts,
        inner,
        columns,
        x.divisor(visits.k),
        lines,
        is_added,
    );
}

/// [`Visits::outer`] into `y`.
pub fn outer(visits: &Visits, a: Rows, b: Rows, y: &CubeTensor) {
    let (rows, columns) = (a.width(), b.width());
    multiply_outer_on_tensor_cores::launch(
        &y.client,
        CubeCount::Static(columns.div_ceil(TILE) as u32, rows.div_ceil(TILE) as u32, visits.num_experts as u32),
        units(),
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

/// The lines of a tile in shared memory, each of which is a part of a row in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Lines {
    /// Each has the terms of one row or column of the result.
    OfResult,
    /// Each has one term of all of them.
    OfTerms,
}

/// Elements of the larger tile.
const fn max_elements() -> usize {
    let [of_result, of_terms] = [Lines::OfResult.num_elements(), Lines::OfTerms.num_elements()];
    if of_result > of_terms { of_result } else { of_terms }
}

impl Lines {
    const fn count(self) -> usize {
        match self {
            Self::OfResult => TILE,
            Self::OfTerms => DEPTH,
        }
    }

    const fn len(self) -> usize {
        TILE * DEPTH / self.count()
    }

    /// Elements from one line to the next.
    const fn stride(self) -> usize {
        self.len() + PADDING_BYTES / 2
    }

    const fn num_elements(self) -> usize {
        self.count() * self.stride()
    }
}

/// Copies to a tile: lines are the rows of `x` at places from `places.0` on, those from `places.1` on zero. Rows begin at element
/// `start` of `x`, and are read from column `columns.0` on; they have `columns.1`.
#[cube]
fn load<X: Float>(
    tile: &mut Shared<[bf16]>,
    x: &[X],
    order: &[i32],
    start: usize,
    places: (usize, usize),
    columns: (usize, usize),
    #[comptime] divisor: usize,
    #[comptime] lines: Lines,
) {
    let (first_place, end) = places;
    let (first_column, width) = columns;
    for i in range_stepped(UNIT_POS as usize, comptime!(lines.count() * lines.len()), UNITS) {
        let (line, at) = (i / comptime!(lines.len()), i % comptime!(lines.len()));
        let mut value = bf16::from_int(0);
        if first_place + line < end && first_column + at < width {
            let row = row_of(order, first_place + line, divisor);
            value = bf16::cast_from(x[start + row * width + first_column + at]);
        }
        tile[line * comptime!(lines.stride()) + at] = value;
    }
}

/// The factor whose first row or column of the result is `of_result`, and whose first term is `term`.
#[cube]
fn factor(
    tile: &Shared<[bf16]>,
    of_result: usize,
    #[comptime] term: usize,
    #[comptime] lines: Lines,
    #[comptime] ident: cmma::MatrixIdent,
) -> cmma::Matrix<bf16> {
    let (along, across) = comptime!(match lines {
        Lines::OfResult => (lines.stride(), 1),
        Lines::OfTerms => (1, lines.stride()),
    });
    let layout = comptime!(match (lines, ident) {
        (Lines::OfResult, cmma::MatrixIdent::A) | (Lines::OfTerms, cmma::MatrixIdent::B) =>
            cmma::MatrixLayout::RowMajor,
        _ => cmma::MatrixLayout::ColMajor,
    });
    let start = of_result * along + comptime!(term * across);
    tensor_cores::factor(tile, start, comptime!(lines.num_elements()), comptime!(lines.stride()), ident, layout)
}

/// The first row and column of the plane of this unit in its tile.
#[cube]
fn corner() -> (usize, usize) {
    let plane = UNIT_POS_Y as usize;
    (plane / PLANES_ALONG * ROWS_OF_PLANE, plane % PLANES_ALONG * COLUMNS_OF_PLANE)
}

/// Adds the products of two tiles.
#[cube]
fn accumulate(
    sums: &Sequence<cmma::Matrix<f32>>,
    a: &Shared<[bf16]>,
    b: &Shared<[bf16]>,
    #[comptime] lines_a: Lines,
    #[comptime] lines_b: Lines,
) {
    let (first_row, first_column) = corner();
    #[unroll]
    for step in 0..comptime!(DEPTH / SIDE) {
        let term = comptime!(step * SIDE);
        let mut of_columns = Sequence::<cmma::Matrix<bf16>>::new();
        #[unroll]
        for j in 0..comptime!(COLUMNS_OF_PLANE / SIDE) {
            of_columns.push(factor(b, first_column + comptime!(j * SIDE), term, lines_b, cmma::MatrixIdent::B));
        }
        #[unroll]
        for i in 0..comptime!(ROWS_OF_PLANE / SIDE) {
            let of_rows = factor(a, first_row + comptime!(i * SIDE), term, lines_a, cmma::MatrixIdent::A);
            #[unroll]
            for j in 0..comptime!(COLUMNS_OF_PLANE / SIDE) {
                let sum = sums.index(comptime!(i * (COLUMNS_OF_PLANE / SIDE) + j));
                cmma::execute(&of_rows, of_columns.index(j), sum, sum);
            }
        }
    }
}

/// Writes the sums to the matrix that begins at `matrix`, or adds them to what is there. Rows and columns are the first of the tile
/// and one past the last of the matrix.
#[cube]
fn store(
    y: &mut [f32],
    sums: &Sequence<cmma::Matrix<f32>>,
    matrix: usize,
    rows: (usize, usize),
    columns: (usize, usize),
    #[comptime] is_added: bool,
) {
    let (end_row, end_column) = (rows.1, columns.1);
    let (row_of_plane, column_of_plane) = corner();
    let mut fragments = Shared::<[f32]>::new_aligned_slice(comptime!(NUM_PLANES * SIDE * SIDE), ALIGNMENT);
    let own = UNIT_POS_Y as usize * (SIDE * SIDE);
    #[unroll]
    for i in 0..comptime!(ROWS_OF_PLANE / SIDE) {
        #[unroll]
        for j in 0..comptime!(COLUMNS_OF_PLANE / SIDE) {
            let sum = sums.index(comptime!(i * (COLUMNS_OF_PLANE / SIDE) + j));
            let region = &mut fragments[own..own + comptime!(SIDE * SIDE)];
            cmma::store(region, sum, comptime!(SIDE as u32), cmma::MatrixLayout::RowMajor);
            sync_plane();
            for element in range_stepped(UNIT_POS_X as usize, SIDE * SIDE, PLANE) {
                let row = rows.0 + row_of_plane + comptime!(i * SIDE) + element / SIDE;
                let column = columns.0 + column_of_plane + comptime!(j * SIDE) + element % SIDE;
                if row < end_row && column < end_column {
                    let at = matrix + row * end_column + column;
                    let mut value = fragments[own + element];
                    if comptime!(is_added) {
                        value += y[at];
                    }
                    y[at] = value;
                }
            }
            sync_plane();
        }
    }
}

#[cube(launch)]
fn multiply_on_tensor_cores(
    x: &[f32],
    weights: &[bf16],
    order: &[i32],
    starts: &[i32],
    y: &mut [f32],
    num_experts: usize,
    inner: usize,
    columns: usize,
    #[comptime] divisor: usize,
    #[comptime] lines: Lines,
    #[comptime] is_added: bool,
) {
    let (expert, first_row, end) = tile_of(starts, num_experts, TILE);
    if expert == num_experts {
        terminate!();
    }
    let first_column = CUBE_POS_X as usize * TILE;
    let matrix = expert * inner * columns;
    let mut a = Shared::<[bf16]>::new_aligned_slice(comptime!(Lines::OfResult.num_elements()), ALIGNMENT);
    let mut b = Shared::<[bf16]>::new_aligned_slice(comptime!(lines.num_elements()), ALIGNMENT);
    let sums = zeros(NUM_FRAGMENTS);
    for first in range_stepped(0usize, inner, DEPTH) {
        load::<f32>(&mut a, x, order, 0usize, (first_row, end), (first, inner), divisor, Lines::OfResult);
        if comptime!(lines == Lines::OfResult) {
            load::<bf16>(&mut b, weights, order, matrix, (first_column, columns), (first, inner), 0usize, lines);
        } else {
            load::<bf16>(&mut b, weights, order, matrix, (first, inner), (first_column, columns), 0usize, lines);
        }
        sync_cube();
        accumulate(&sums, &a, &b, Lines::OfResult, lines);
        sync_cube();
    }
    store(y, &sums, 0usize, (first_row, end), (first_column, columns), is_added);
}

#[cube(launch)]
fn multiply_outer_on_tensor_cores(
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
    let mut tile_a = Shared::<[bf16]>::new_aligned_slice(comptime!(Lines::OfTerms.num_elements()), ALIGNMENT);
    let mut tile_b = Shared::<[bf16]>::new_aligned_slice(comptime!(Lines::OfTerms.num_elements()), ALIGNMENT);
    let sums = zeros(NUM_FRAGMENTS);
    for first in range_stepped(start, end, DEPTH) {
        load::<f32>(&mut tile_a, a, order, 0usize, (first, end), (first_row, rows), divisor_a, Lines::OfTerms);
        load::<f32>(&mut tile_b, b, order, 0usize, (first, end), (first_column, columns), divisor_b, Lines::OfTerms);
        sync_cube();
        accumulate(&sums, &tile_a, &tile_b, Lines::OfTerms, Lines::OfTerms);
        sync_cube();
    }
    store(y, &sums, expert * rows * columns, (first_row, rows), (first_column, columns), false);
}
