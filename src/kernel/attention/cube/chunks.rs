//! Attention of few rows, as in decoding: the keys are cut into chunks, so that there are enough cubes for a GPU (Dao et al.,
//! 2023, <https://pytorch.org/blog/flash-decoding/>). A second kernel adds up what the chunks give, always in their order.
//!
//! The number of chunks depends on sizes that the host knows. Their limits come from the bounds on the device: the keys that a
//! tile of rows sees are cut into equal chunks, so that neither a window nor the length of a sequence leaves most of the work
//! to few of them.

use burn::backend::DType;
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::Plan;
use super::forward::{LOWEST, accumulate_values, factor_and_logsumexp};
use super::tile::{Sizes, store, zeros};
use crate::kernel::cube::{empty, float_input, input, output};

/// Tiles of keys of a chunk, at least: fewer would not be worth the second kernel. A guess: no GPU has been measured.
const MIN_TILES: usize = 2;

/// Cubes for each multiprocessor, so that some work while others wait for memory.
const CUBES_PER_MULTIPROCESSOR: usize = 4;

/// Multiprocessors of a device that does not say how many it has; only CUDA does.
const MULTIPROCESSORS: usize = 64;

impl Plan {
    /// Cubes if there are no chunks.
    fn num_cubes(&self) -> usize {
        self.tiles_of_rows() * self.num_kv_heads * self.batch_size
    }

    /// Parts of the keys of a tile of rows; 1 if there are enough cubes without.
    pub fn num_chunks(&self, multiprocessors: Option<u32>) -> usize {
        num_chunks(self.num_cubes(), self.num_keys.div_ceil(self.tile), multiprocessors)
    }
}

/// Chunks of so many tiles of keys, if `num_cubes` cubes work on all of them without.
fn num_chunks(num_cubes: usize, num_tiles: usize, multiprocessors: Option<u32>) -> usize {
    let enough = CUBES_PER_MULTIPROCESSOR * multiprocessors.map_or(MULTIPROCESSORS, |count| count as usize);
    (enough / num_cubes).min(num_tiles.div_ceil(MIN_TILES)).max(1)
}

/// Writes the result, and the logsumexp of each row.
pub fn attend(plan: &Plan, num_chunks: usize, [q, k, v]: [&CubeTensor; 3], [y, logsumexp]: [&CubeTensor; 2]) {
    let num_parts = plan.num_cubes() * num_chunks * plan.tile;
    let [parts, totals] = [plan.head_dim, 2].map(|width| empty([num_parts, width], DType::F32, q));
    of_chunks::launch(
        &q.client,
        plan.cubes(plan.tiles_of_rows() * num_chunks),
        plan.units(),
        float_input(q),
        float_input(k),
        float_input(v),
        input(&plan.bounds),
        output(&parts),
        output(&totals),
        num_chunks,
        plan.sizes(),
    );
    combine::launch(
        &q.client,
        plan.cubes(plan.tiles_of_rows()),
        plan.units(),
        float_input(&parts),
        float_input(&totals),
        output(y),
        output(logsumexp),
        num_chunks,
        plan.sizes(),
    );
}

/// The sums of [`accumulate_values`] for each row and chunk, and in `totals` the two numbers that it returns: a cube works on one
/// chunk of the keys of its tile of rows. A row that sees no key of the chunk leaves its sums unwritten.
///
/// Parts are in the order of cubes, `tile` for each, so that their places are known without the place of the row, whose factors
/// would be kept in registers.
#[cube(launch)]
fn of_chunks(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    bounds: &[i32],
    parts: &mut [f32],
    totals: &mut [f32],
    num_chunks: usize,
    sizes: Sizes,
) {
    let chunk = CUBE_POS_X as usize % num_chunks;
    let first_row = CUBE_POS_X as usize / num_chunks * sizes.tile;
    let (first, end) = sizes.seen_by_tile(bounds, first_row);
    // The end of a tile of padding is before its beginning.
    let len = max(end, first) - first;
    let len_of_chunk = len.div_ceil(num_chunks * sizes.tile) * sizes.tile;
    let start = first + chunk * len_of_chunk;
    let keys = (start, min(start + len_of_chunk, end));
    let mut sums = zeros(&sizes);
    let (highest, total) = accumulate_values(&mut sums, q, k, v, bounds, first_row, keys, &sizes);
    let part = CUBE_POS * sizes.tile + UNIT_POS_Y as usize;
    // Not `>`, which would lose NaN.
    if total != 0.0 {
        store(parts, part, &sums, 1.0f32, &sizes);
    }
    if UNIT_POS_X == 0 {
        totals[2 * part] = highest;
        totals[2 * part + 1] = total;
    }
}

/// `y`, and the logsumexp of the scores of each row, of the parts of its chunks. Units are those of [`forward`](super::forward).
#[cube(launch)]
fn combine(parts: &[f32], totals: &[f32], y: &mut [f32], logsumexp: &mut [f32], num_chunks: usize, sizes: Sizes) {
    let head_dim = comptime!(sizes.head_dim);
    let row = CUBE_POS_X as usize * sizes.tile + UNIT_POS_Y as usize;
    if row >= sizes.num_rows() {
        terminate!();
    }
    let first = CUBE_POS * num_chunks * sizes.tile + UNIT_POS_Y as usize;
    let end = first + num_chunks * sizes.tile;
    let mut highest = f32::new(LOWEST);
    for part in range_stepped(first, end, sizes.tile) {
        highest = max(highest, totals[2 * part]);
    }
    let mut sums = zeros(&sizes);
    let mut total = 0.0f32;
    for part in range_stepped(first, end, sizes.tile) {
        let total_of_part = totals[2 * part + 1];
        if total_of_part != 0.0 {
            let weight = (totals[2 * part] - highest).exp();
            total += weight * total_of_part;
            #[unroll]
            for own in 0..sizes.columns {
                let column = own * sizes.tile + UNIT_POS_X as usize;
                if column < head_dim {
                    sums[own] += weight * parts[part * head_dim + column];
                }
            }
        }
    }
    let (factor, log) = factor_and_logsumexp(highest, total);
    let place = sizes.place(row);
    store(y, place, &sums, factor, &sizes);
    if UNIT_POS_X == 0 {
        logsumexp[place] = log;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_rows_have_chunks_and_many_have_none() {
        assert_eq!(num_chunks(8, 256, Some(108)), 54);
        assert_eq!(num_chunks(3, 19, None), 10, "a chunk has two tiles");
        assert_eq!(num_chunks(1, 2, None), 1);
        assert_eq!(num_chunks(300, 256, Some(132)), 1);
        assert_eq!(num_chunks(1000, 256, None), 1);
        assert_eq!(num_chunks(1, 0, None), 1, "a batch of padding");
    }
}
