//! Values of quantized matrices.

use burn::backend::{DType, TensorMetadata};
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::{WordMatrix, Words};
use crate::kernel::blocks::{Layout, Scales};
use crate::kernel::cube::{empty, input, output, unit_for_each};

/// Elements that a unit reads at once: they are in one sub-block, and their codes are in whole or half words.
pub const GROUP: usize = 8;

/// Matrices `[rows, width]` of one shape, one after another, as kernels know them: see [`Words`].
#[derive(CubeType, CubeLaunch)]
pub struct Matrices {
    pub codes: Box<[u32]>,
    pub scales: Box<[f32]>,
    pub rows: usize,
    pub width: usize,
    /// The first word of the upper bits of codes.
    pub upper: usize,
    /// The first word of the scales and minima of sub-blocks.
    pub of_sub_blocks: usize,
    #[cube(comptime)]
    pub layout: Layout,
}

impl Words {
    /// The argument of a kernel, as matrices of this shape.
    pub fn matrices(&self, [rows, width]: [usize; 2]) -> MatricesLaunch {
        let (codes, scales, places) = (input(&self.codes), input(&self.scales), self.places());
        MatricesLaunch::new(codes, scales, rows, width, places.upper, places.of_sub_blocks, self.format.layout())
    }
}

impl WordMatrix {
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
        let words = &self.words;
        let y = empty([rows, width], DType::F32, &words.scales);
        let len = rows * width;
        let (cubes, units) = unit_for_each(len / GROUP, &y);
        values::launch(
            &y.client,
            cubes,
            units,
            words.matrices(self.shape),
            input(indices.as_ref().unwrap_or(&words.codes)),
            output(&y),
            len,
            self.first,
            indices.is_some(),
        );
        y
    }
}

/// The values of the [`GROUP`] elements from `first` on.
#[cube]
pub fn values_of_group(matrices: &Matrices, first: usize) -> Array<f32> {
    let layout = comptime!(matrices.layout);
    let halves = comptime!(layout.scales.num_halves());
    let of_block = first / comptime!(layout.block) * halves;
    let mut scale = matrices.scales[of_block];
    let mut minimum = 0.0f32;
    if comptime!(matches!(layout.scales, Scales::WithMinimum)) {
        minimum = matrices.scales[of_block + 1];
    }
    if comptime!(layout.scales.are_per_sub_block()) {
        let sub_block = first / comptime!(layout.sub_block);
        let word = matrices.codes[matrices.of_sub_blocks + sub_block / 2];
        let bytes = word >> (u32::cast_from(sub_block % 2) * 16);
        if comptime!(matches!(layout.scales, Scales::Signed)) {
            // Two's complement.
            scale *= f32::cast_from((bytes & 255) ^ 128) - 128.0;
        } else {
            scale *= f32::cast_from(bytes & 255);
            minimum = -(matrices.scales[of_block + 1] * f32::cast_from((bytes >> 8) & 255));
        }
    }
    let (lower_bits, upper_bits) = comptime!((layout.bits[0] as u32, layout.bits[1] as u32));
    let offset = comptime!(layout.offset as f32);
    let mut values = Array::<f32>::new(GROUP);
    #[unroll]
    for i in 0..GROUP {
        let element = first + i;
        let word = matrices.codes[element / comptime!(32 / lower_bits as usize)];
        let mut code = (word >> (u32::cast_from(element % comptime!(32 / lower_bits as usize)) * lower_bits))
            & comptime!((1u32 << lower_bits) - 1);
        if comptime!(upper_bits > 0) {
            let word = matrices.codes[matrices.upper + element / comptime!(32 / upper_bits as usize)];
            let bits = (word >> (u32::cast_from(element % comptime!(32 / upper_bits as usize)) * upper_bits))
                & comptime!((1u32 << upper_bits) - 1);
            code |= bits << lower_bits;
        }
        values[i] = scale * (f32::cast_from(code) - offset) + minimum;
    }
    values
}

/// A unit has a group: its values, of the rows `indices` if they are gathered, else of all rows. They are rows of the matrix that
/// begins at element `matrix`.
#[cube(launch)]
fn values(
    matrices: Matrices,
    indices: &[i32],
    y: &mut [f32],
    len: usize,
    matrix: usize,
    #[comptime] is_gathered: bool,
) {
    let place = ABSOLUTE_POS * GROUP;
    if place >= len {
        terminate!();
    }
    let mut first = place;
    if comptime!(is_gathered) {
        first = usize::cast_from(indices[place / matrices.width]) * matrices.width + place % matrices.width;
    }
    let values = values_of_group(&matrices, matrix + first);
    #[unroll]
    for i in 0..GROUP {
        y[place + i] = values[i];
    }
}
