//! The result of attention, on tensor cores.

use burn_cubecl::cubecl::{self, cmma, prelude::*};
use half::bf16;

use super::super::forward::{LOWEST, factor_and_logsumexp};
use super::super::tile::{Sizes, Vectors};
use super::tile::{
    TILE, WIDTH_OF_SCORES, accumulate, bytes_of_scores, bytes_of_vectors, first_of_plane, load, multiply, own_vector,
    scores, seen_by_rows, store, stride_of_scores, stride_of_weights, vectors, weights, write,
};
use crate::kernel::cube::tensor_cores::{SIDE, zeros};

/// Keys of a tile.
const KEYS: usize = 64;

/// How far a score may exceed the number that is subtracted from the scores of its row.
///
/// Sums in fragments are rescaled by way of shared memory, and among the 16 rows of a plane some score is the highest so far in most
/// tiles. With this slack nearly all rescaling is in the first one: weights up to `exp(8)` have the relative error of those up to 1,
/// and a sum of them is far from the largest float32.
const SLACK: f32 = 8.0;

/// Bytes of shared memory.
pub const fn shared_bytes(head_dim: usize) -> usize {
    bytes_of_vectors(TILE + 2 * KEYS, head_dim) + bytes_of_scores(KEYS)
}

/// Writes `y`, and the logsumexp of each row. A cube loops over all keys that its rows see. Tiles of keys begin at multiples of
/// [`KEYS`], so that the bits of a row do not depend on those beside it.
#[cube(launch)]
pub fn forward_on_tensor_cores(
    q: &[bf16],
    k: &[bf16],
    v: &[bf16],
    bounds: &[i32],
    y: &mut [bf16],
    logsumexp: &mut [f32],
    sizes: Sizes,
) {
    let first_row = CUBE_POS_X as usize * TILE;
    let (tile_first, tile_end) = seen_by_rows(bounds, first_row, TILE, &sizes);
    let (own, half) = own_vector();
    let row = first_row + own;
    let seen = sizes.seen(bounds, row);
    let mut queries = vectors(TILE, &sizes);
    let mut keys = vectors(KEYS, &sizes);
    let mut values = vectors(KEYS, &sizes);
    let mut scores = scores(KEYS);
    let mut weights = weights(KEYS);
    let mut sums = zeros(comptime!(sizes.head_dim / SIDE));
    load(&mut queries, q, first_row, (first_row, sizes.num_rows()), TILE, &sizes, Vectors::Rows);
    let mut subtracted = f32::new(LOWEST);
    // Of the scores that this unit has.
    let mut total = 0.0f32;
    for start in range_stepped(tile_first / KEYS * KEYS, tile_end, KEYS) {
        load(&mut keys, k, start, (tile_first, tile_end), KEYS, &sizes, Vectors::Keys);
        load(&mut values, v, start, (tile_first, tile_end), KEYS, &sizes, Vectors::Keys);
        sync_cube();
        multiply(&mut scores, &queries, &keys, KEYS, &sizes);
        sync_plane();
        let highest = highest_score(&scores, start, seen, &sizes);
        let mut new_subtracted = subtracted;
        if highest > subtracted + SLACK {
            new_subtracted = highest;
        }
        let correction = (subtracted - new_subtracted).exp();
        let sum = write_weights(&mut weights, &scores, start, seen, new_subtracted, &sizes);
        total = total * correction + sum;
        sync_plane();
        if plane_any(new_subtracted > subtracted) {
            rescale(&mut sums, &mut scores, correction, &sizes);
        }
        subtracted = new_subtracted;
        accumulate(&sums, &weights, &values, KEYS, &sizes);
        sync_cube();
    }
    let total = total + plane_shuffle_xor(total, 1u32);
    let (factor, log) = factor_and_logsumexp(subtracted, total);
    let is_row = row < sizes.num_rows();
    let place = sizes.place(row);
    store(y, &mut sums, &mut scores, place, is_row, factor, KEYS, &sizes);
    if is_row && half == 0 {
        logsumexp[place] = log;
    }
}

/// The highest score of the row of this unit, of keys that it sees.
#[cube]
fn highest_score(scores: &Shared<[f32]>, start: usize, seen: (usize, usize), sizes: &Sizes) -> f32 {
    let (first, end) = seen;
    let (own, half) = own_vector();
    let scores = scores.as_vectorized().with_vector_size::<Const<WIDTH_OF_SCORES>>();
    let mut highest = f32::new(LOWEST);
    #[unroll]
    for i in 0..comptime!(KEYS / (2 * WIDTH_OF_SCORES)) {
        let part = 2 * i + half;
        let of_part = scores[own * comptime!(stride_of_scores(KEYS) / WIDTH_OF_SCORES) + part];
        #[unroll]
        for element in 0..WIDTH_OF_SCORES {
            let key = start + part * WIDTH_OF_SCORES + element;
            if key >= first && key < end {
                highest = max(highest, of_part.extract(element) * sizes.scale);
            }
        }
    }
    max(highest, plane_shuffle_xor(highest, 1u32))
}

/// Writes `exp(score − subtracted)` of the scores that this unit has, 0 of keys that its row does not see, and returns their sum.
#[cube]
fn write_weights(
    weights: &mut Shared<[bf16]>,
    scores: &Shared<[f32]>,
    start: usize,
    seen: (usize, usize),
    subtracted: f32,
    sizes: &Sizes,
) -> f32 {
    let (first, end) = seen;
    let (own, half) = own_vector();
    let scores = scores.as_vectorized().with_vector_size::<Const<WIDTH_OF_SCORES>>();
    let weights = weights.as_vectorized_mut().with_vector_size_mut::<Const<WIDTH_OF_SCORES>>();
    let mut sum = 0.0f32;
    #[unroll]
    for i in 0..comptime!(KEYS / (2 * WIDTH_OF_SCORES)) {
        let part = 2 * i + half;
        let of_part = scores[own * comptime!(stride_of_scores(KEYS) / WIDTH_OF_SCORES) + part];
        let mut rounded = Vector::<bf16, Const<WIDTH_OF_SCORES>>::new(bf16::from_int(0));
        #[unroll]
        for element in 0..WIDTH_OF_SCORES {
            let key = start + part * WIDTH_OF_SCORES + element;
            let mut weight = 0.0f32;
            if key >= first && key < end {
                weight = (of_part.extract(element) * sizes.scale - subtracted).exp();
            }
            sum += weight;
            rounded.insert(element, bf16::cast_from(weight));
        }
        weights[own * comptime!(stride_of_weights(KEYS) / WIDTH_OF_SCORES) + part] = rounded;
    }
    sum
}

/// Multiplies the sums of the plane of this unit, each row with the correction of its units, by way of the lines of scores.
#[cube]
fn rescale(sums: &mut Sequence<cmma::Matrix<f32>>, lines: &mut Shared<[f32]>, correction: f32, sizes: &Sizes) {
    let (own, half) = own_vector();
    let stride = comptime!(stride_of_scores(KEYS));
    #[unroll]
    for part in 0..comptime!(sizes.head_dim.div_ceil(KEYS)) {
        let first = comptime!(part * KEYS / SIDE);
        let num_fragments = comptime!(Ord::min(KEYS / SIDE, sizes.head_dim / SIDE - first));
        write(lines, sums, first, num_fragments, KEYS);
        sync_plane();
        let numbers = lines.as_vectorized_mut().with_vector_size_mut::<Const<WIDTH_OF_SCORES>>();
        #[unroll]
        for i in 0..comptime!(num_fragments * SIDE / (2 * WIDTH_OF_SCORES)) {
            let at = own * comptime!(stride / WIDTH_OF_SCORES) + 2 * i + half;
            numbers[at] = numbers[at] * Vector::new(correction);
        }
        sync_plane();
        #[unroll]
        for j in 0..num_fragments {
            let start = first_of_plane() * stride + comptime!(j * SIDE);
            let region = &lines[start..comptime!(TILE * stride)];
            let sum = sums.index_mut(comptime!(first + j));
            cmma::load_with_layout(sum, region, comptime!(stride as u32), cmma::MatrixLayout::RowMajor);
        }
        sync_plane();
    }
}
