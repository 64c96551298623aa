//! The result of attention.

use burn_cubecl::cubecl::{self, prelude::*};

use super::tile::{Sizes, Vectors, accumulate, dot, load, scores, store, vectors, zeros};

/// Below every score; not infinite, which some shader languages do not have.
const LOWEST: f32 = -1.0e30;

/// `y`, and the logsumexp of the scores of each row, by an online softmax (Milakov & Gimelshein, 2018, arXiv:1805.02867, §3).
/// Unit `(x, y)` has row `y`: the score of key `x` of each tile, and every `tile`-th column of the result.
#[cube(launch)]
pub fn forward(q: &[f32], k: &[f32], v: &[f32], bounds: &[i32], y: &mut [f32], logsumexp: &mut [f32], sizes: Sizes) {
    let (lane, lane_row) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let first_row = CUBE_POS_X as usize * sizes.tile;
    let row = first_row + lane_row;
    let (first, end) = sizes.seen(bounds, row);
    let (tile_first, tile_end) = sizes.seen_by_tile(bounds, first_row);
    let mut tile = vectors(&sizes);
    let mut weights = scores(&sizes);
    let mut sums = zeros(&sizes);
    let mut highest = f32::new(LOWEST);
    let mut total = 0.0f32;
    for start in range_stepped(tile_first, tile_end, sizes.tile) {
        load(&mut tile, k, start, tile_end, &sizes, Vectors::Keys);
        sync_cube();
        let key = start + lane;
        let is_seen = key >= first && key < end;
        let mut score = f32::new(LOWEST);
        if is_seen {
            score = dot(q, sizes.place(row), &tile, lane, &sizes) * sizes.scale;
        }
        weights[lane_row * sizes.tile + lane] = score;
        sync_cube();
        load(&mut tile, v, start, tile_end, &sizes, Vectors::Keys);
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
        accumulate(&mut sums, &weights, lane_row, &tile, &sizes);
        sync_cube();
    }
    if row < sizes.num_rows() {
        // Padding sees nothing.
        let mut factor = 0.0f32;
        let mut log = 0.0f32;
        if total > 0.0 {
            factor = 1.0 / total;
            log = highest + total.ln();
        }
        let place = sizes.place(row);
        store(y, place, &sums, factor, &sizes);
        if lane == 0 {
            logsumexp[place] = log;
        }
    }
}
