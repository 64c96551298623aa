//! Products of a few rows with blocks.

use burn::backend::DType;
use burn::tensor::Tensor;
use burn_cubecl::cubecl::{self, prelude::*};

use super::WordMatrix;
use super::values::{GROUP, Matrices, values_of_group};
use crate::kernel::cube::{empty, float_input, matrix_product, output, primitive, public};

/// Units that share the sums of a column.
const LANES: usize = 32;
/// Columns of the result, which are rows of the matrix, per [`LANES`] units: the activations are read once for all of them.
const OWN: usize = 4;
/// Units of a cube.
pub const CUBE_UNITS: usize = 128;
/// Columns of a cube.
pub const COLUMNS: usize = CUBE_UNITS / LANES * OWN;
/// Rows of activations of a cube, at most: their sums take the 16 KiB of shared memory that every device of Vulkan has.
pub const MAX_TILE: usize = 8;
/// Rows of activations up to which a product reads blocks, for experts on average. It reads all of them once per [`MAX_TILE`]
/// rows; a product of more rows reads a dequantized copy. The sum of a row has the same order for any number of rows up to this,
/// which is more than a batch of texts has: a text does not depend on those beside it.
pub const MAX_ROWS: usize = 4 * MAX_TILE;

impl WordMatrix {
    /// `x·Wᵀ` of `x: [rows, in]`.
    pub fn product(&self, x: Tensor<2>) -> Tensor<2> {
        let [rows, _] = x.dims();
        if rows > MAX_ROWS {
            return matrix_product(x, public(self.dequantize()).transpose());
        }
        let x = primitive(x);
        let columns = self.shape[0];
        let y = empty([rows, columns], DType::F32, &x);
        let tile = rows.next_power_of_two().min(MAX_TILE);
        few_rows::launch(
            &y.client,
            CubeCount::Static(columns.div_ceil(COLUMNS) as u32, rows.div_ceil(tile) as u32, 1),
            CubeDim::new_1d(CUBE_UNITS as u32),
            float_input(&x),
            self.words.matrices(self.shape),
            output(&y),
            rows,
            self.first,
            tile,
        );
        public(y)
    }
}

/// The products of all rows of `x` with the matrix that begins at element `matrix`. A cube has a tile of rows and [`COLUMNS`]
/// columns of the result.
#[cube(launch)]
fn few_rows(x: &[f32], matrices: Matrices, y: &mut [f32], rows: usize, matrix: usize, #[comptime] tile: usize) {
    let first = CUBE_POS_Y as usize * tile;
    let mut of_x = Array::<u32>::new(tile);
    #[unroll]
    for row in 0..tile {
        of_x[row] = u32::cast_from(min(first + row, rows - 1));
    }
    let rows = TileRows { of_x, first, end: rows, tile };
    multiply_tile(x, &rows, &matrices, matrix, y);
}

/// The rows of a tile.
#[derive(CubeType)]
pub struct TileRows {
    /// The place of each among the activations; behind the last row, any place that exists.
    pub of_x: Array<u32>,
    /// The first row of the result.
    pub first: usize,
    /// One past the last row of the result that is written.
    pub end: usize,
    /// How many rows a tile has.
    #[cube(comptime)]
    pub tile: usize,
}

/// Products of a tile of rows of `x` with [`COLUMNS`] rows of the matrix that begins at element `matrix`. [`LANES`] units share
/// [`OWN`] rows of the matrix; each sums over every [`LANES`]-th group, and then a unit adds up the lanes of one result.
#[cube]
pub fn multiply_tile(x: &[f32], rows: &TileRows, matrices: &Matrices, matrix: usize, y: &mut [f32]) {
    let tile = comptime!(rows.tile);
    let (columns, inner) = (matrices.rows, matrices.width);
    let unit = UNIT_POS as usize;
    let (team, lane) = (unit / LANES, unit % LANES);
    let first_column = CUBE_POS_X as usize * COLUMNS + team * OWN;

    let mut sums = Array::<f32>::new(comptime!(OWN * tile));
    #[unroll]
    for i in 0..comptime!(OWN * tile) {
        sums[i] = 0.0f32;
    }
    for first in range_stepped(lane * GROUP, inner, comptime!(LANES * GROUP)) {
        // The side with fewer vectors stays in registers, whose number bounds how many cubes run at once.
        if comptime!(tile < OWN) {
            let mut activations = Array::<f32>::new(comptime!(tile * GROUP));
            #[unroll]
            for row in 0..tile {
                let start = rows.of_x[row] as usize * inner + first;
                #[unroll]
                for i in 0..GROUP {
                    activations[row * GROUP + i] = x[start + i];
                }
            }
            #[unroll]
            for own in 0..OWN {
                let values = values_of_group(matrices, matrix + column_of(first_column + own, columns) * inner + first);
                #[unroll]
                for row in 0..tile {
                    #[unroll]
                    for i in 0..GROUP {
                        sums[row * OWN + own] += activations[row * GROUP + i] * values[i];
                    }
                }
            }
        } else {
            let mut weights = Array::<f32>::new(comptime!(OWN * GROUP));
            #[unroll]
            for own in 0..OWN {
                let values = values_of_group(matrices, matrix + column_of(first_column + own, columns) * inner + first);
                #[unroll]
                for i in 0..GROUP {
                    weights[own * GROUP + i] = values[i];
                }
            }
            #[unroll]
            for row in 0..tile {
                let start = rows.of_x[row] as usize * inner + first;
                #[unroll]
                for i in 0..GROUP {
                    let x = x[start + i];
                    #[unroll]
                    for own in 0..OWN {
                        sums[row * OWN + own] += x * weights[own * GROUP + i];
                    }
                }
            }
        }
    }

    let mut of_units = Shared::<[f32]>::new_slice(comptime!(OWN * tile * CUBE_UNITS));
    #[unroll]
    for i in 0..comptime!(OWN * tile) {
        of_units[i * CUBE_UNITS + unit] = sums[i];
    }
    sync_cube();
    // Results of the cube: rows, by columns.
    if unit < comptime!(tile * COLUMNS) {
        let (row, column) = (unit / COLUMNS, unit % COLUMNS);
        let start = (row * OWN + column % OWN) * CUBE_UNITS + column / OWN * LANES;
        let mut sum = 0.0f32;
        for i in 0..LANES {
            // Units begin at different lanes, which are in different banks.
            sum += of_units[start + (i + unit) % LANES];
        }
        let (row, column) = (rows.first + row, CUBE_POS_X as usize * COLUMNS + column);
        if row < rows.end && column < columns {
            y[row * columns + column] = sum;
        }
    }
}

/// The last columns are computed again rather than read beyond the matrix.
#[cube]
fn column_of(column: usize, columns: usize) -> usize {
    min(column, columns - 1)
}
