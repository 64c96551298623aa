//! Few queries, as in decoding, have too few tiles of rows to occupy a GPU. Here several cubes share a tile: each computes the
//! result of one chunk of the keys that the tile sees (Dao et al., 2023, <https://pytorch.org/blog/flash-decoding/>). A second
//! kernel adds up these results, always in the order of the keys.
//!
//! A chunk is the keys from one multiple of [`KEYS`] to the next. The place of a key tells its chunk, so the bits of a row depend
//! on its own sequence alone, and on no other in the batch.

use burn::backend::DType;
use burn::backend::cubecl::dtype_to_elem_type;
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::forward::{LOWEST, accumulate_values, factor_and_logsumexp};
use super::plan::Plan;
use super::tile::{Sizes, store, zeros};
use crate::kernel::cube::{empty, float_input, input, output, typed_input};

/// Keys of a chunk, a multiple of every size of a tile. A guess: no GPU has been measured.
const KEYS: usize = 128;

/// Queries of a sequence, padding included, up to which keys are cut into chunks; more queries have enough tiles. The size of the
/// batch must not decide, or the bits of a row would depend on it.
pub const MAX_QUERIES: usize = 16;

/// The most chunks that the queries of a sequence see, of `num_keys` keys if they see up to `num_visible` of them.
///
/// If there is one chunk, [`forward`](super::forward) is launched instead, which needs no second kernel and gives the same
/// bits: it walks along the same tiles of keys, and a chunk that is alone has the weight `exp(0) = 1`.
fn num_chunks(num_queries: usize, num_keys: usize, num_visible: usize) -> usize {
    if num_queries > MAX_QUERIES {
        return 1;
    }
    // The most chunks are touched if the first key is the last one of a chunk.
    let of_window = num_visible.saturating_sub(1).div_ceil(KEYS) + 1;
    num_keys.div_ceil(KEYS).min(of_window).max(1)
}

impl Plan {
    /// Cubes for each tile of rows.
    pub fn num_chunks(&self) -> usize {
        num_chunks(self.num_queries, self.num_keys, self.num_visible)
    }
}

/// Writes the result, and the logsumexp of each row.
pub fn attend(plan: &Plan, num_chunks: usize, [q, k, v]: [&CubeTensor; 3], [y, logsumexp]: [&CubeTensor; 2]) {
    let num_parts = plan.tiles_of_rows() * plan.num_kv_heads * plan.batch_size * num_chunks * plan.tile;
    let [parts, totals] = [plan.head_dim, 2].map(|width| empty([num_parts, width], DType::F32, q));
    of_chunks::launch(
        &q.client,
        plan.cubes(plan.tiles_of_rows() * num_chunks),
        plan.units(),
        input(q),
        typed_input(k, q.dtype),
        typed_input(v, q.dtype),
        input(&plan.bounds),
        output(&parts),
        output(&totals),
        num_chunks,
        plan.sizes(),
        dtype_to_elem_type(q.dtype),
    );
    combine::launch(
        &q.client,
        plan.cubes(plan.tiles_of_rows()),
        plan.units(),
        float_input(&parts),
        float_input(&totals),
        input(&plan.bounds),
        output(y),
        output(logsumexp),
        num_chunks,
        plan.sizes(),
        dtype_to_elem_type(q.dtype),
    );
}

/// Where the results of a chunk begin, `tile` rows of them; `tile_of_rows` is the index of a tile among those of all heads and
/// sequences. Its keys are in at most `num_chunks` successive chunks, so that the remainder tells them apart.
#[cube]
fn first_part(tile_of_rows: usize, chunk: usize, num_chunks: usize, #[comptime] tile: usize) -> usize {
    (tile_of_rows * num_chunks + chunk % num_chunks) * tile
}

/// The sums of [`accumulate_values`] for each row and chunk, and in `totals` the two numbers that it returns. A cube computes one
/// chunk of one tile of rows. Chunks are counted from the one with the first key that the tile sees, so that a window launches no
/// cube for the keys before it.
#[cube(launch)]
fn of_chunks<F: Float>(
    q: &[F],
    k: &[F],
    v: &[F],
    bounds: &[i32],
    parts: &mut [f32],
    totals: &mut [f32],
    num_chunks: usize,
    sizes: Sizes,
    #[define(F)] _dtype: ElemType,
) {
    let first_row = CUBE_POS_X as usize / num_chunks * sizes.tile;
    let (first, end) = sizes.seen_by_tile(bounds, first_row);
    let chunk = first / KEYS + CUBE_POS_X as usize % num_chunks;
    let start = chunk * KEYS;
    // The tile sees no key of this chunk, so nothing reads the results. All units of the cube agree.
    if start >= end {
        terminate!();
    }
    let keys = (max(first, start), min(start + KEYS, end));
    let mut sums = zeros(&sizes);
    let (highest, total) = accumulate_values::<F>(&mut sums, q, k, v, bounds, first_row, keys, &sizes);
    let lane_row = UNIT_POS_Y as usize;
    if first_row + lane_row < sizes.num_rows() {
        let part = first_part(CUBE_POS / num_chunks, chunk, num_chunks, comptime!(sizes.tile)) + lane_row;
        store::<f32>(parts, part, &sums, 1.0f32, &sizes);
        if UNIT_POS_X == 0 {
            totals[2 * part] = highest;
            totals[2 * part + 1] = total;
        }
    }
}

/// `y`, and the logsumexp of the scores of each row: the weighted sums of the results of its chunks. Units are those of
/// [`forward`](super::forward). The bounds of a row tell which chunks it sees. A total would not do: of one that is NaN, some
/// shader compilers say that it is not different from 0.
#[cube(launch)]
fn combine<F: Float>(
    parts: &[f32],
    totals: &[f32],
    bounds: &[i32],
    y: &mut [F],
    logsumexp: &mut [f32],
    num_chunks: usize,
    sizes: Sizes,
    #[define(F)] _dtype: ElemType,
) {
    let head_dim = comptime!(sizes.head_dim);
    let lane_row = UNIT_POS_Y as usize;
    let row = CUBE_POS_X as usize * sizes.tile + lane_row;
    if row >= sizes.num_rows() {
        terminate!();
    }
    let (first, end) = sizes.seen(bounds, row);
    let (first_chunk, end_chunk) = (first / KEYS, end.div_ceil(KEYS));
    let mut highest = f32::new(LOWEST);
    for chunk in first_chunk..end_chunk {
        let part = first_part(CUBE_POS, chunk, num_chunks, comptime!(sizes.tile)) + lane_row;
        highest = max(highest, totals[2 * part]);
    }
    let mut sums = zeros(&sizes);
    let mut total = 0.0f32;
    for chunk in first_chunk..end_chunk {
        let part = first_part(CUBE_POS, chunk, num_chunks, comptime!(sizes.tile)) + lane_row;
        let weight = (totals[2 * part] - highest).exp();
        total += weight * totals[2 * part + 1];
        #[unroll]
        for own in 0..sizes.columns {
            let column = own * sizes.tile + UNIT_POS_X as usize;
            if column < head_dim {
                sums[own] += weight * parts[part * head_dim + column];
            }
        }
    }
    let (factor, log) = factor_and_logsumexp(highest, total);
    let place = sizes.place(row);
    store::<F>(y, place, &sums, factor, &sizes);
    if UNIT_POS_X == 0 {
        logsumexp[place] = log;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::attention::{Band, CausalMask};

    impl CausalMask {
        /// Chunks that tests on devices expect.
        pub fn num_chunks(&self, num_queries: usize) -> usize {
            let (num_keys, num_visible) = match self {
                Self::Band(band) => (band.past + num_queries, band.num_visible(num_queries)),
                Self::Ragged(ragged) => (ragged.num_keys, ragged.max_visible),
                Self::Forked(_) => panic!("no kernel for forked sequences"),
            };
            num_chunks(num_queries, num_keys, num_visible)
        }
    }

    #[test]
    fn few_queries_have_chunks_and_many_have_none() {
        assert_eq!(num_chunks(1, 4096, 4096), 32);
        assert_eq!(num_chunks(MAX_QUERIES, KEYS + 1, KEYS + 1), 2);
        assert_eq!(num_chunks(MAX_QUERIES + 1, 4096, 4096), 1);
        assert_eq!(num_chunks(1, KEYS, KEYS), 1);
        assert_eq!(num_chunks(1, 0, 0), 1, "a batch of padding");
    }

    #[test]
    fn a_window_has_the_chunks_that_it_may_touch() {
        for (window, past, num_queries) in [(1, 1000, 1), (2, 127, 1), (130, 4000, 1), (100, 500, 5), (4096, 300, 3)] {
            let band = Band { past, window: Some(window) };
            let touched = (0..2 * KEYS).map(|shift| {
                let band = Band { past: past + shift, ..band };
                band.keys(num_queries - 1).end.div_ceil(KEYS) - band.keys(0).start / KEYS
            });
            let expected = CausalMask::Band(Band { past: past + 2 * KEYS, ..band }).num_chunks(num_queries);
            assert_eq!(touched.max(), Some(expected), "window {window} after {past}");
        }
    }
}
