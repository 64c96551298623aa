//! Tiles in shared memory, and the products of a plane with them.

use burn_cubecl::cubecl::{self, cmma, prelude::*};
use half::bf16;

use super::super::tile::{Sizes, Vectors};
use crate::kernel::cube::tensor_cores::{self, ALIGNMENT, PADDING_BYTES, PLANE, SIDE, factor};

/// Vectors that a cube computes results for.
pub const TILE: usize = 64;
pub const NUM_PLANES: usize = TILE / SIDE;
const UNITS: usize = NUM_PLANES * PLANE;
/// Elements of bfloat16 in 16 bytes, the most that a unit reads or writes at once.
const WIDTH: usize = 8;
/// The same of float32.
pub const WIDTH_OF_SCORES: usize = 4;

/// Elements from one vector to the next in shared memory.
pub const fn stride_of_vectors(head_dim: usize) -> usize {
    head_dim + PADDING_BYTES / 2
}

/// Elements from one line of scores, those with `count` vectors, to the next.
pub const fn stride_of_scores(count: usize) -> usize {
    count + PADDING_BYTES / 4
}

/// The same of weights.
pub const fn stride_of_weights(count: usize) -> usize {
    count + PADDING_BYTES / 2
}

/// Bytes of `count` vectors.
pub const fn bytes_of_vectors(count: usize, head_dim: usize) -> usize {
    2 * count * stride_of_vectors(head_dim)
}

/// Bytes of scores and weights of a tile with `count` vectors.
pub const fn bytes_of_scores(count: usize) -> usize {
    TILE * (4 * stride_of_scores(count) + 2 * stride_of_weights(count))
}

/// Room for vectors.
#[cube]
pub fn vectors(#[comptime] count: usize, sizes: &Sizes) -> Shared<[bf16]> {
    Shared::<[bf16]>::new_aligned_slice(comptime!(count * stride_of_vectors(sizes.head_dim)), ALIGNMENT)
}

/// Room for the scores of a tile with `count` vectors.
#[cube]
pub fn scores(#[comptime] count: usize) -> Shared<[f32]> {
    Shared::<[f32]>::new_aligned_slice(comptime!(TILE * stride_of_scores(count)), ALIGNMENT)
}

/// Room for the weights of a tile with `count` vectors.
#[cube]
pub fn weights(#[comptime] count: usize) -> Shared<[bf16]> {
    Shared::<[bf16]>::new_aligned_slice(comptime!(TILE * stride_of_weights(count)), ALIGNMENT)
}

/// The first vector of the plane of this unit in its tile.
#[cube]
pub fn first_of_plane() -> usize {
    UNIT_POS_Y as usize * SIDE
}

/// The vector of this unit in its tile, which another unit has too, and which of both this unit is.
#[cube]
pub fn own_vector() -> (usize, usize) {
    let lane = UNIT_POS_X as usize;
    (first_of_plane() + lane / 2, lane % 2)
}

/// The keys that one of `count` rows sees; a unit of each plane looks at every 32nd.
#[cube]
pub fn seen_by_rows(bounds: &[i32], first_row: usize, #[comptime] count: usize, sizes: &Sizes) -> (usize, usize) {
    let mut first = sizes.capacity as u32;
    let mut end = 0u32;
    #[unroll]
    for i in 0..comptime!(count / PLANE) {
        let (row_first, row_end) = sizes.seen(bounds, first_row + comptime!(i * PLANE) + UNIT_POS_X as usize);
        if row_end > 0 {
            first = min(first, row_first as u32);
            end = max(end, row_end as u32);
        }
    }
    (plane_min(first) as usize, plane_max(end) as usize)
}

/// Copies `count` vectors, from `start`; those that are not in a range are zero.
#[cube]
pub fn load(
    tile: &mut Shared<[bf16]>,
    x: &[bf16],
    start: usize,
    range: (usize, usize),
    #[comptime] count: usize,
    sizes: &Sizes,
    #[comptime] vectors: Vectors,
) {
    let (first, end) = range;
    let parts = comptime!(sizes.head_dim / WIDTH);
    let x = x.as_vectorized().with_vector_size::<Const<WIDTH>>();
    let tile = tile.as_vectorized_mut().with_vector_size_mut::<Const<WIDTH>>();
    for i in range_stepped(UNIT_POS as usize, comptime!(count * parts), UNITS) {
        let (vector, part) = (start + i / parts, i % parts);
        let mut value = Vector::<bf16, Const<WIDTH>>::new(bf16::from_int(0));
        if vector >= first && vector < end {
            let place = if comptime!(vectors == Vectors::Rows) { sizes.place(vector) } else { sizes.key(vector) };
            value = x[place * parts + part];
        }
        tile[i / parts * comptime!(stride_of_vectors(sizes.head_dim) / WIDTH) + part] = value;
    }
}

/// The products of the vectors of the plane of this unit and `count` others.
#[cube]
pub fn multiply(
    products: &mut Shared<[f32]>,
    tile: &Shared<[bf16]>,
    others: &Shared<[bf16]>,
    #[comptime] count: usize,
    sizes: &Sizes,
) {
    let stride = comptime!(stride_of_vectors(sizes.head_dim));
    let first = first_of_plane();
    let mut sums = tensor_cores::zeros(comptime!(count / SIDE));
    #[unroll]
    for step in 0..comptime!(sizes.head_dim / SIDE) {
        let column = comptime!(step * SIDE);
        let (ident, layout) = comptime!((cmma::MatrixIdent::A, cmma::MatrixLayout::RowMajor));
        let a = factor(tile, first * stride + column, comptime!(TILE * stride), stride, ident, layout);
        #[unroll]
        for j in 0..comptime!(count / SIDE) {
            let start = comptime!(j * SIDE * stride + column);
            let (ident, layout) = comptime!((cmma::MatrixIdent::B, cmma::MatrixLayout::ColMajor));
            let b = factor(others, start, comptime!(count * stride), stride, ident, layout);
            cmma::execute(&a, &b, sums.index(j), sums.index(j));
        }
    }
    write(products, &mut sums, 0usize, comptime!(count / SIDE), count);
}

/// Writes fragments `first..first + num_fragments` to the lines of scores of the plane of this unit.
#[cube]
pub fn write(
    lines: &mut Shared<[f32]>,
    sums: &mut Sequence<cmma::Matrix<f32>>,
    #[comptime] first: usize,
    #[comptime] num_fragments: usize,
    #[comptime] count: usize,
) {
    let stride = comptime!(stride_of_scores(count));
    let own = first_of_plane() * stride;
    #[unroll]
    for j in 0..num_fragments {
        let region = &mut lines[own + comptime!(j * SIDE)..comptime!(TILE * stride)];
        let sum = sums.index(comptime!(first + j));
        cmma::store(region, sum, comptime!(stride as u32), cmma::MatrixLayout::RowMajor);
    }
}

/// Adds `Σ_i weights[vector, i] · others[i]` to the sums of the plane of this unit.
#[cube]
pub fn accumulate(
    sums: &Sequence<cmma::Matrix<f32>>,
    weights: &Shared<[bf16]>,
    others: &Shared<[bf16]>,
    #[comptime] count: usize,
    sizes: &Sizes,
) {
    let (stride, stride_of_weights) = comptime!((stride_of_vectors(sizes.head_dim), stride_of_weights(count)));
    let first = first_of_plane();
    #[unroll]
    for step in 0..comptime!(count / SIDE) {
        let start = first * stride_of_weights + comptime!(step * SIDE);
        let layout = comptime!(cmma::MatrixLayout::RowMajor);
        let len = comptime!(TILE * stride_of_weights);
        let a = factor(weights, start, len, stride_of_weights, cmma::MatrixIdent::A, layout);
        #[unroll]
        for j in 0..comptime!(sizes.head_dim / SIDE) {
            let start = comptime!(step * SIDE * stride + j * SIDE);
            let b = factor(others, start, comptime!(count * stride), stride, cmma::MatrixIdent::B, layout);
            cmma::execute(&a, &b, sums.index(j), sums.index(j));
        }
    }
}

/// Writes the sums of the plane of this unit, each vector's times the factor of its units. `place` is that of the vector of this
/// unit. Sums pass the lines of scores with `count` vectors, which have to be read by now.
#[cube]
pub fn store(
    y: &mut [bf16],
    sums: &mut Sequence<cmma::Matrix<f32>>,
    lines: &mut Shared<[f32]>,
    place: usize,
    is_written: bool,
    factor: f32,
    #[comptime] count: usize,
    sizes: &Sizes,
) {
    let (vector, half) = own_vector();
    let y = y.as_vectorized_mut().with_vector_size_mut::<Const<WIDTH>>();
    #[unroll]
    for part in 0..comptime!(sizes.head_dim.div_ceil(count)) {
        let first_column = comptime!(part * count);
        let columns = comptime!(Ord::min(count, sizes.head_dim - first_column));
        write(lines, sums, comptime!(first_column / SIDE), comptime!(columns / SIDE), count);
        sync_plane();
        if is_written {
            #[unroll]
            for i in 0..comptime!(columns / (2 * WIDTH)) {
                let column = half * comptime!(columns / 2) + comptime!(i * WIDTH);
                let mut value = Vector::<bf16, Const<WIDTH>>::new(bf16::from_int(0));
                #[unroll]
                for element in 0..WIDTH {
                    let at = vector * comptime!(stride_of_scores(count)) + column + element;
                    value.insert(element, bf16::cast_from(lines[at] * factor));
                }
                y[place * comptime!(sizes.head_dim / WIDTH) + (first_column + column) / WIDTH] = value;
            }
        }
        sync_plane();
    }
}
