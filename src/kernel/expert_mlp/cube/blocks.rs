//! Products of the rows of each expert with blocks of its quantized matrix, a few rows at a time.

use burn::backend::DType;
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::operands::{Rows, row_of, tile_of};
use super::visits::Visits;
use crate::kernel::cube::quantized::{COLUMNS, CUBE_UNITS, MAX_TILE, Matrices, TileRows, multiply_tile};
use crate::kernel::cube::{WordStack, empty, float_input, input, output};

/// Each row times the matrix of its expert: `[num_visits, out]`. Only experts that are visited are read, once per tile of rows.
pub fn product(visits: &Visits, x: Rows, stack: &WordStack) -> CubeTensor {
    let [columns, _] = stack.shape;
    let y = empty([visits.num_visits, columns], DType::F32, x.tensor());
    // The experts of a token are distinct, so none has more rows than there are tokens.
    let num_tokens = visits.num_visits / visits.k;
    let tile = num_tokens.next_power_of_two().min(MAX_TILE);
    multiply_blocks::launch(
        &y.client,
        visits.tiles(columns, [tile, COLUMNS]),
        CubeDim::new_1d(CUBE_UNITS as u32),
        float_input(x.tensor()),
        stack.words.matrices(stack.shape),
        input(&stack.places),
        input(&visits.order),
        input(&visits.starts),
        output(&y),
        visits.num_experts,
        x.divisor(visits.k),
        tile,
    );
    y
}

/// A cube has a tile of the rows of one expert, whose matrix is the one at `places[expert]`, and [`COLUMNS`] columns of the result.
#[cube(launch)]
fn multiply_blocks(
    x: &[f32],
    matrices: Matrices,
    places: &[i32],
    order: &[i32],
    starts: &[i32],
    y: &mut [f32],
    num_experts: usize,
    #[comptime] divisor: usize,
    #[comptime] tile: usize,
) {
    let (expert, first, end) = tile_of(starts, num_experts, tile);
    if expert == num_experts {
        terminate!();
    }
    let mut of_x = Array::<u32>::new(tile);
    #[unroll]
    for row in 0..tile {
        of_x[row] = u32::cast_from(row_of(order, min(first + row, end - 1), divisor));
    }
    let matrix = usize::cast_from(places[expert]) * matrices.rows * matrices.width;
    let rows = TileRows { of_x, first, end, tile };
    multiply_tile(x, &rows, &matrices, matrix, y);
}
