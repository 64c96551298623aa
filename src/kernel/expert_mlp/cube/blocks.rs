//! Products of the rows of each expert with blocks of its quantized matrix, a few rows at a time.

use burn::backend::DType;
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::operands::{Rows, row_of, tile_of};
use super::visits::Visits;
use crate::kernel::blocks::Layout;
use crate::kernel::cube::quantized::{COLUMNS, CUBE_UNITS, MAX_TILE, multiply_tile};
use crate::kernel::cube::{WordStack, empty, float_input, input, output};

/// Each row times the matrix of its expert: `[num_visits, out]`. Only experts that are visited are read, once per tile of rows.
pub fn product(visits: &Visits, x: Rows, stack: &WordStack) -> CubeTensor {
    let [columns, inner] = stack.shape;
    let y = empty([visits.num_visits, columns], DType::F32, x.tensor());
    // The experts of a token are distinct, so none has more rows than there are tokens.
    let num_tokens = visits.num_visits / visits.k;
    let tile = num_tokens.next_power_of_two().min(MAX_TILE);
    let (words, places) = (&stack.words, stack.words.places());
    multiply_blocks::launch(
        &y.client,
        visits.tiles(columns, [tile, COLUMNS]),
        CubeDim::new_1d(CUBE_UNITS as u32),
        float_input(x.tensor()),
        input(&words.codes),
        input(&words.scales),
        input(&stack.places),
        input(&visits.order),
        input(&visits.starts),
        output(&y),
        visits.num_experts,
        columns,
        inner,
        places.upper,
        places.of_sub_blocks,
        x.divisor(visits.k),
        tile,
        words.format.layout(),
    );
    y
}

#[cube(launch)]
fn multiply_blocks(
    x: &[f32],
    codes: &[u32],
    scales: &[f32],
    matrices: &[i32],
    order: &[i32],
    starts: &[i32],
    y: &mut [f32],
    num_experts: usize,
    columns: usize,
    inner: usize,
    upper: usize,
    of_sub_blocks: usize,
    #[comptime] divisor: usize,
    #[comptime] tile: usize,
    #[comptime] layout: Layout,
) {
    let (expert, first_row, end) = tile_of(starts, num_experts, tile);
    if expert == num_experts {
        terminate!();
    }
    let mut of_x = Array::<u32>::new(tile);
    #[unroll]
    for row in 0..tile {
        of_x[row] = u32::cast_from(row_of(order, min(first_row + row, end - 1), divisor));
    }
    let matrix = usize::cast_from(matrices[expert]) * columns * inner;
    multiply_tile(
        x,
        codes,
        scales,
        y,
        &of_x,
        (first_row, end),
        columns,
        inner,
        matrix,
        (upper, of_sub_blocks),
        tile,
        layout,
    );
}
