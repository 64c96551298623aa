//! Quantized matrices on devices of CubeCL: products read the blocks, a few rows of activations at a time.
//!
//! Activations are not rounded, and sums are in float32.

use burn::backend::{Cube, DType, TensorMetadata};
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::{empty, float_input, input, matrix_product, output, primitive, public, unit_for_each};
use crate::kernel::blocks::{Block, BlockFormat, BlockWords, Layout, Scales, WordPlaces};

/// Elements that a unit reads at once: they are in one sub-block, and their codes are in whole or half words.
const GROUP: usize = 8;
/// Units that share the sums of a column.
const LANES: usize = 32;
/// Columns of the result, which are rows of the matrix, per [`LANES`] units: the activations are read once for all of them.
const OWN: usize = 4;
/// Units of a cube.
const CUBE_UNITS: usize = 128;
/// Columns of a cube.
const COLUMNS: usize = CUBE_UNITS / LANES * OWN;
/// Rows of activations of a cube, at most: their sums take the 16 KiB of shared memory that every device of Vulkan has.
const MAX_TILE: usize = 8;
/// Rows of activations up to which a product reads blocks. It reads all of them once per [`MAX_TILE`] rows; a product of more rows
/// reads a dequantized copy. The sum of a row has the same order for any number of rows up to this, which is more than a batch of
/// texts has: a text does not depend on those beside it.
const MAX_ROWS: usize = 4 * MAX_TILE;

/// A matrix `[out, in]` in the words of [`BlockWords`].
#[derive(Debug, Clone)]
pub struct WordMatrix {
    pub(super) format: BlockFormat,
    pub(super) shape: [usize; 2],
    /// Int32.
    pub(super) codes: CubeTensor,
    /// Float32.
    pub(super) scales: CubeTensor,
}

impl WordMatrix {
    /// Copies blocks, each given by its index, to a device of CubeCL.
    ///
    /// # Panics
    /// If the elements are no whole blocks.
    pub fn new(format: BlockFormat, shape: [usize; 2], block: impl Fn(usize) -> Block + Sync, device: &Device) -> Self {
        let BlockWords { codes, scales } = BlockWords::pack(format, shape.iter().product(), block);
        let device = device.clone().without_autodiff();
        let (codes_shape, scales_shape) = ([codes.len()], [scales.len()]);
        let codes: Vec<i32> = codes.into_iter().map(u32::cast_signed).collect();
        let codes = Tensor::<1, Int>::from_data(TensorData::new(codes, codes_shape), (&device, DType::I32));
        let scales = Tensor::<1>::from_data(TensorData::new(scales, scales_shape), (&device, DType::F32));
        Self {
            format,
            shape,
            codes: codes.try_into_primitive::<Cube>().expect("a device of CubeCL"),
            scales: primitive(scales),
        }
    }

    /// The matrix on another device of CubeCL.
    pub fn to_device(&self, device: &Device) -> Self {
        let device = device.clone().without_autodiff();
        let codes = Tensor::<1, Int>::from_primitive::<Cube>(self.codes.clone()).to_device(&device);
        Self {
            format: self.format,
            shape: self.shape,
            codes: codes.try_into_primitive::<Cube>().expect("a device of CubeCL"),
            scales: primitive(public::<1>(self.scales.clone()).to_device(&device)),
        }
    }

    /// `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        self.shape
    }

    /// Bytes of a matrix of this format and shape.
    pub fn bytes_of(format: BlockFormat, shape: [usize; 2]) -> usize {
        WordPlaces::new(format.layout(), shape.iter().product()).size_bytes()
    }

    /// All values, in float32.
    pub fn dequantize(&self) -> CubeTensor {
        self.values_of_rows(None)
    }

    /// The rows with these indices, in float32: `[indices, in]`.
    pub fn rows(&self, indices: CubeTensor) -> CubeTensor {
        self.values_of_rows(Some(burn_cubecl::kernel::cast(indices, DType::I32)))
    }

    fn values_of_rows(&self, indices: Option<CubeTensor>) -> CubeTensor {
        let [rows, width] = self.shape;
        let rows = indices.as_ref().map_or(rows, |indices| indices.shape().num_elements());
        let y = empty([rows, width], DType::F32, &self.scales);
        let len = rows * width;
        let (cubes, units) = unit_for_each(len / GROUP, &y);
        let places = self.places();
        values::launch(
            &y.client,
            cubes,
            units,
            input(&self.codes),
            input(&self.scales),
            input(indices.as_ref().unwrap_or(&self.codes)),
            output(&y),
            len,
            width,
            places.upper,
            places.of_sub_blocks,
            indices.is_some(),
            self.format.layout(),
        );
        y
    }

    /// `x·Wᵀ` of `x: [rows, in]`.
    pub fn product(&self, x: Tensor<2>) -> Tensor<2> {
        let [rows, inner] = x.dims();
        if rows > MAX_ROWS {
            return matrix_product(x, public(self.dequantize()).transpose());
        }
        let x = primitive(x);
        let columns = self.shape[0];
        let y = empty([rows, columns], DType::F32, &x);
        let tile = rows.next_power_of_two().min(MAX_TILE);
        let places = self.places();
        few_rows::launch(
            &y.client,
            CubeCount::Static(columns.div_ceil(COLUMNS) as u32, rows.div_ceil(tile) as u32, 1),
            CubeDim::new_1d(CUBE_UNITS as u32),
            float_input(&x),
            input(&self.codes),
            input(&self.scales),
            output(&y),
            rows,
            columns,
            inner,
            places.upper,
            places.of_sub_blocks,
            tile,
            self.format.layout(),
        );
        public(y)
    }

    fn places(&self) -> WordPlaces {
        WordPlaces::new(self.format.layout(), self.shape.iter().product())
    }
}

/// The values of the [`GROUP`] elements from `first` on.
#[cube]
fn values_of_group(
    codes: &[u32],
    scales: &[f32],
    first: usize,
    upper: usize,
    of_sub_blocks: usize,
    #[comptime] layout: Layout,
) -> Array<f32> {
    let halves = comptime!(layout.scales.num_halves());
    let of_block = first / comptime!(layout.block) * halves;
    let mut scale = scales[of_block];
    let mut minimum = 0.0f32;
    if comptime!(matches!(layout.scales, Scales::WithMinimum)) {
        minimum = scales[of_block + 1];
    }
    if comptime!(layout.scales.are_per_sub_block()) {
        let sub_block = first / comptime!(layout.sub_block);
        let bytes = codes[of_sub_blocks + sub_block / 2] >> (u32::cast_from(sub_block % 2) * 16);
        if comptime!(matches!(layout.scales, Scales::Signed)) {
            // Two's complement.
            scale *= f32::cast_from((bytes & 255) ^ 128) - 128.0;
        } else {
            scale *= f32::cast_from(bytes & 255);
            minimum = -(scales[of_block + 1] * f32::cast_from((bytes >> 8) & 255));
        }
    }
    let (lower_bits, upper_bits) = comptime!((layout.bits[0] as u32, layout.bits[1] as u32));
    let offset = comptime!(layout.offset as f32);
    let mut values = Array::<f32>::new(GROUP);
    #[unroll]
    for i in 0..GROUP {
        let element = first + i;
        let word = codes[element / comptime!(32 / lower_bits as usize)];
        let mut code = (word >> (u32::cast_from(element % comptime!(32 / lower_bits as usize)) * lower_bits))
            & comptime!((1u32 << lower_bits) - 1);
        if comptime!(upper_bits > 0) {
            let word = codes[upper + element / comptime!(32 / upper_bits as usize)];
            let bits = (word >> (u32::cast_from(element % comptime!(32 / upper_bits as usize)) * upper_bits))
                & comptime!((1u32 << upper_bits) - 1);
            code |= bits << lower_bits;
        }
        values[i] = scale * (f32::cast_from(code) - offset) + minimum;
    }
    values
}

/// A unit has a group: its values, of the rows `indices` if they are gathered, else of all rows.
#[cube(launch)]
fn values(
    codes: &[u32],
    scales: &[f32],
    indices: &[i32],
    y: &mut [f32],
    len: usize,
    width: usize,
    upper: usize,
    of_sub_blocks: usize,
    #[comptime] is_gathered: bool,
    #[comptime] layout: Layout,
) {
    let place = ABSOLUTE_POS * GROUP;
    if place >= len {
        terminate!();
    }
    let mut first = place;
    if comptime!(is_gathered) {
        first = usize::cast_from(indices[place / width]) * width + place % width;
    }
    let values = values_of_group(codes, scales, first, upper, of_sub_blocks, layout);
    #[unroll]
    for i in 0..GROUP {
        y[place + i] = values[i];
    }
}

/// Products of at most `tile` rows with [`COLUMNS`] rows of the matrix. [`LANES`] units share [`OWN`] of these; each sums over
/// every [`LANES`]-th group, and then a unit adds up the lanes of one result.
#[cube(launch)]
fn few_rows(
    x: &[f32],
    codes: &[u32],
    scales: &[f32],
    y: &mut [f32],
    rows: usize,
    columns: usize,
    inner: usize,
    upper: usize,
    of_sub_blocks: usize,
    #[comptime] tile: usize,
    #[comptime] layout: Layout,
) {
    let unit = UNIT_POS as usize;
    let (team, lane) = (unit / LANES, unit % LANES);
    let first_row = CUBE_POS_Y as usize * tile;
    let first_column = CUBE_POS_X as usize * COLUMNS + team * OWN;

    let mut sums = Array::<f32>::new(comptime!(OWN * tile));
    #[unroll]
    for i in 0..comptime!(OWN * tile) {
        sums[i] = 0.0f32;
    }
    for first in range_stepped(lane * GROUP, inner, comptime!(LANES * GROUP)) {
        let mut weights = Array::<f32>::new(comptime!(OWN * GROUP));
        #[unroll]
        for own in 0..OWN {
            // The last columns are computed again rather than read beyond the matrix.
            let column = min(first_column + own, columns - 1);
            let values = values_of_group(codes, scales, column * inner + first, upper, of_sub_blocks, layout);
            #[unroll]
            for i in 0..GROUP {
                weights[own * GROUP + i] = values[i];
            }
        }
        #[unroll]
        for row in 0..tile {
            let start = min(first_row + row, rows - 1) * inner + first;
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
        let (row, column) = (first_row + row, CUBE_POS_X as usize * COLUMNS + column);
        if row < rows && column < columns {
            y[row * columns + column] = sum;
        }
    }
}
