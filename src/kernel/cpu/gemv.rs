//! Products of few rows with streamed float weights.

use std::ops::Range;

use super::PREFETCH_BYTES;
use super::lanes::{Lanes, WithLanes, with_lanes};
use super::weight_rows::{WeightRows, Widen};

/// Rows of `x` up to which float32 weights are streamed.
pub(super) const STREAMED_ROWS: usize = 24;
/// Bytes of a block of weights that is to stay in L1 beside some rows of `x`.
const L1_BLOCK_BYTES: usize = 8 * 1024;

/// `out[i, j] = x_i · w_j`. The order of summation does not depend on the number of rows, so that batched decoding gives the
/// bits of single decoding.
pub(super) fn dot_rows(x: &[f32], w: WeightRows<'_>, out: &mut [f32], k: usize) {
    match w {
        WeightRows::F32(w) => with_lanes(DotRows { x, w, out, k }),
        WeightRows::F16(w) => with_lanes(DotRows { x, w, out, k }),
        WeightRows::Bf16(w) => with_lanes(DotRows { x, w, out, k }),
    }
}

struct DotRows<'a, W> {
    x: &'a [f32],
    w: &'a [W],
    out: &'a mut [f32],
    k: usize,
}

impl<W: Widen> WithLanes for DotRows<'_, W> {
    #[inline(always)]
    fn with_lanes<L: Lanes>(mut self, lanes: L) {
        let n = self.w.len() / self.k;
        // Up to four rows are memory-bound, and sequential reads are fastest; but with half precision on AVX-512 the latency
        // of a single accumulator exceeds that of memory, so two rows of weights are read at once. With more rows, a tile
        // has as many accumulators as fit in registers beside its operands.
        let (few, wide) = (self.x.len() / self.k <= 4, L::REGISTERS == 32);
        match (few, wide) {
            (true, true) if size_of::<W>() == 2 => self.all_rows::<L, 4, 2>(lanes, n),
            (true, _) => self.tiles::<L, 4, 1>(lanes, 0..n),
            (false, true) => self.all_rows::<L, 4, 4>(lanes, n),
            (false, false) => self.all_rows::<L, 3, 2>(lanes, n),
        }
    }
}

/// What a tile prefetches while it computes.
#[derive(Clone, Copy)]
struct TilePrefetch {
    /// Distance from the loads to the prefetches.
    bytes: usize,
    /// The tile prefetches part `part` of `parts`, so that the tiles on the same weights prefetch each line once.
    part: usize,
    parts: usize,
}

impl<W: Widen> DotRows<'_, W> {
    /// Multiplies all `n` rows of weights, `C` at a time, then the remainder.
    #[inline(always)]
    fn all_rows<L: Lanes, const R: usize, const C: usize>(&mut self, lanes: L, n: usize) {
        let tiled = n / C * C;
        self.tiles::<L, R, C>(lanes, 0..tiled);
        self.tiles::<L, R, 1>(lanes, tiled..n);
    }

    /// Multiplies some rows of weights in tiles of `R` rows of `x` by `C` rows of weights. A block of weights stays in L1 for
    /// all rows of `x`, and the next block is prefetched meanwhile.
    #[inline(always)]
    fn tiles<L: Lanes, const R: usize, const C: usize>(&mut self, lanes: L, columns: Range<usize>) {
        let (m, row_bytes) = (self.x.len() / self.k, size_of::<W>() * self.k);
        let parts = m.div_ceil(R);
        let (block, bytes) = match parts {
            1 => (C, PREFETCH_BYTES),
            _ => {
                let block = (L1_BLOCK_BYTES / row_bytes / C).max(1) * C;
                (block, block * row_bytes)
            }
        };
        for start in columns.clone().step_by(block) {
            for part in 0..parts {
                let (row, ahead) = (part * R, TilePrefetch { bytes, part, parts });
                for column in (start..(start + block).min(columns.end)).step_by(C) {
                    match m - row {
                        1 => self.tile::<L, 1, C>(lanes, row, column, ahead),
                        2 => self.tile::<L, 2, C>(lanes, row, column, ahead),
                        3 if R > 3 => self.tile::<L, 3, C>(lanes, row, column, ahead),
                        _ => self.tile::<L, R, C>(lanes, row, column, ahead),
                    }
                }
            }
        }
    }

    /// Micro-kernel: `R` rows of `x` by `C` rows of weights, with `R·C` independent accumulators.
    #[inline(always)]
    fn tile<L: Lanes, const R: usize, const C: usize>(
        &mut self,
        lanes: L,
        row: usize,
        column: usize,
        ahead: TilePrefetch,
    ) {
        let (k, n) = (self.k, self.w.len() / self.k);
        let (x, w) = (&self.x[row * k..(row + R) * k], &self.w[column * k..(column + C) * k]);
        let (blocks, tail) = (k / 16, k / 16 * 16);
        let (mut x_blocks, mut w_blocks) = ([[].as_slice(); R], [[].as_slice(); C]);
        for (r, sixteens) in x_blocks.iter_mut().enumerate() {
            *sixteens = &x[r * k..(r + 1) * k].as_chunks::<16>().0[..blocks];
        }
        for (c, sixteens) in w_blocks.iter_mut().enumerate() {
            *sixteens = &w[c * k..(c + 1) * k].as_chunks::<16>().0[..blocks];
        }
        let prefetched = blocks * ahead.part / ahead.parts..blocks * (ahead.part + 1) / ahead.parts;
        let mut next = w.as_ptr().wrapping_byte_add(ahead.bytes).wrapping_add(prefetched.start * C * 16);
        let mut sums = [[lanes.splat(0.0); C]; R];
        for block in 0..blocks {
            if prefetched.contains(&block) {
                // As many lines as are loaded.
                for _ in 0..C {
                    lanes.prefetch(next);
                    next = next.wrapping_add(16);
                }
            }
            let mut columns = [lanes.splat(0.0); C];
            for (numbers, w) in columns.iter_mut().zip(w_blocks) {
                *numbers = W::load(lanes, &w[block]);
            }
            for (sums, x) in sums.iter_mut().zip(x_blocks) {
                let x = lanes.load(&x[block]);
                for (sum, w) in sums.iter_mut().zip(columns) {
                    *sum = lanes.mul_add(x, w, *sum);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (c, mut sum) in sums.into_iter().enumerate() {
                if tail < k {
                    let (mut x_rest, mut w_rest) = ([0.0; 16], [W::zeroed(); 16]);
                    x_rest[..k - tail].copy_from_slice(&x[r * k + tail..(r + 1) * k]);
                    w_rest[..k - tail].copy_from_slice(&w[c * k + tail..(c + 1) * k]);
                    sum = lanes.mul_add(lanes.load(&x_rest), W::load(lanes, &w_rest), sum);
                }
                self.out[(row + r) * n + column + c] = lanes.sum(sum);
            }
        }
    }
}
