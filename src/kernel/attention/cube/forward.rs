//! The result of attention.

use burn_cubecl::cubecl::{self, prelude::*};

use super::tile::{Sizes, Vectors, accumulate, dot_of_tiles, load, scores, store, vectors, zeros};

/// Below every score; not infinite, which some shader languages do not have.
pub const LOWEST: f32 = -1.0e30;

/// Adds `exp(score − highest) · value` of each key of a range to the columns of this unit, where `highest` is the largest score
/// of its row there, and returns `highest` and the sum of these exponentials: an online softmax (Milakov & Gimelshein, 2018,
/// arXiv:1805.02867, §3). If the row sees no key of the range, that is [`LOWEST`] and 0.
///
/// Unit `(x, y)` has row `first_row + y`: the score of key `x` of each tile, and every `tile`-th column of the result.
#[cube]
pub fn accumulate_values<F: Float>(
    sums: &mut Array<f32>,
    q: &[F],
    k: &[F],
    v: &[F],
    bounds: &[i32],
    first_row: usize,
    keys: (usize, usize),
    sizes: &Sizes,
) -> (f32, f32) {
    let (lane, lane_row) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let (first, end) = sizes.seen(bounds, first_row + lane_row);
    let (first_key, end_key) = keys;
    // Read from memory, queries would take registers for their addresses, and heads of 128 would spill some on sm_80.
    let mut queries = vectors(sizes);
    let mut tile = vectors(sizes);
    let mut weights = scores(sizes);
    load::<F>(&mut queries, q, first_row, sizes.num_rows(), sizes, Vectors::Rows);
    let mut highest = f32::new(LOWEST);
    let mut total = 0.0f32;
    for start in range_stepped(first_key, end_key, sizes.tile) {
        load::<F>(&mut tile, k, start, end_key, sizes, Vectors::Keys);
        sync_cube();
        let key = start + lane;
        // The last tile may reach beyond the range.
        let is_seen = key >= first && key < min(end, end_key);
        let mut score = f32::new(LOWEST);
        if is_seen {
            score = dot_of_tiles(&queries, lane_row, &tile, lane, sizes) * sizes.scale;
        }
        weights[lane_row * sizes.tile + lane] = score;
        sync_cube();
        load::<F>(&mut tile, v, start, end_key, sizes, Vectors::Keys);
        let mut new_highest = highest;
        for i in 0..sizes.tile {
            new_highest = max(new_highest, weights[lane_row * sizes.tile + i]);
        }
        sync_cube();
        let mut weight = 0.0f32;
        if is_seen {
            weight = (score - new_highest).exp();
        }
        weights[lane_row * sizes.tile + lane] = weight;
        sync_cube();
        let correction = (highest - new_highest).exp();
        highest = new_highest;
        total *= correction;
        for i in 0..sizes.tile {
            total += weights[lane_row * sizes.tile + i];
        }
        #[unroll]
        for part in 0..sizes.columns {
            sums[part] *= correction;
        }
        accumulate(sums, &weights, lane_row, &tile, sizes);
        sync_cube();
    }
    (highest, total)
}

/// What the sums of a row are multiplied with, and its logsumexp: both 0 for padding, which sees nothing, and NaN if the total is.
#[cube]
pub fn factor_and_logsumexp(highest: f32, total: f32) -> (f32, f32) {
    let mut factor = 1.0 / total;
    let mut log = highest + total.ln();
    // Not `total > 0`, which is false of NaN.
    if total == 0.0 {
        factor = 0.0f32;
        log = 0.0f32;
    }
    (factor, log)
}

/// `y`, and the logsumexp of the scores of each row. A cube walks along all keys of its tile of rows.
#[cube(launch)]
pub fn forward<F: Float>(
    q: &[F],
    k: &[F],
    v: &[F],
    bounds: &[i32],
    y: &mut [F],
    logsumexp: &mut [f32],
    sizes: Sizes,
    #[define(F)] _dtype: ElemType,
) {
    let first_row = CUBE_POS_X as usize * sizes.tile;
    let keys = sizes.seen_by_tile(bounds, first_row);
    let mut sums = zeros(&sizes);
    let (highest, total) = accumulate_values::<F>(&mut sums, q, k, v, bounds, first_row, keys, &sizes);
    let row = first_row + UNIT_POS_Y as usize;
    if row < sizes.num_rows() {
        let (factor, log) = factor_and_logsumexp(highest, total);
        let place = sizes.place(row);
        store::<F>(y, place, &sums, factor, &sizes);
        if UNIT_POS_X == 0 {
            logsumexp[place] = log;
        }
    }
}
