//! Rows and matrices of products of experts, and where the kernels find them.

use burn::backend::TensorMetadata;
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

/// A matrix with a row for each place.
#[derive(Clone, Copy)]
pub enum Rows<'a> {
    /// It has the rows.
    OfVisits(&'a CubeTensor),
    /// It has a row for each token.
    OfTokens(&'a CubeTensor),
}

impl Rows<'_> {
    pub fn tensor(&self) -> &CubeTensor {
        match self {
            Self::OfVisits(x) | Self::OfTokens(x) => x,
        }
    }

    pub fn width(&self) -> usize {
        self.tensor().shape()[1]
    }

    /// By how much a visit is divided to find its row; 0 if the row is the place.
    pub fn divisor(&self, k: usize) -> usize {
        match self {
            Self::OfVisits(_) => 0,
            Self::OfTokens(_) => k,
        }
    }
}

/// A matrix for each expert.
#[derive(Clone, Copy)]
pub enum Weights<'a> {
    /// `[num_experts, in, out]`.
    Plain(&'a CubeTensor),
    /// `[num_experts, out, in]`.
    Transposed(&'a CubeTensor),
}

impl Weights<'_> {
    pub fn stack(&self) -> &CubeTensor {
        match self {
            Self::Plain(stack) | Self::Transposed(stack) => stack,
        }
    }

    /// Columns of a product.
    pub fn columns(&self) -> usize {
        match self {
            Self::Plain(stack) => stack.shape()[2],
            Self::Transposed(stack) => stack.shape()[1],
        }
    }
}

/// The row of a matrix at a place.
#[cube]
pub fn row_of(order: &[i32], place: usize, #[comptime] divisor: usize) -> usize {
    let mut row = place;
    if comptime!(divisor != 0) {
        row = usize::cast_from(order[place]) / divisor;
    }
    row
}

/// The expert of the tile of this cube, its first row, and one past the last row of that expert. The tiles of the experts follow
/// one another; behind the last one, the expert is `num_experts`.
#[cube]
pub fn tile_of(starts: &[i32], num_experts: usize, #[comptime] rows: usize) -> (usize, usize, usize) {
    let mut tile = CUBE_POS_Y as usize;
    let mut expert = num_experts;
    let mut first_row = 0usize;
    let mut end = 0usize;
    for candidate in 0..num_experts {
        if expert == num_experts {
            let (start, next) = (usize::cast_from(starts[candidate]), usize::cast_from(starts[candidate + 1]));
            let tiles = (next - start).div_ceil(rows);
            if tile < tiles {
                expert = candidate;
                first_row = start + tile * rows;
                end = next;
            } else {
                tile -= tiles;
            }
        }
    }
    (expert, first_row, end)
}
