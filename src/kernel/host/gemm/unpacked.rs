//! `C = A·Wᵀ (+ C)` with `W` read where it lies.
//!
//! To pack a matrix of weights takes as long as to multiply some dozens of rows with it. Here the operands change places:
//! `A` is packed in panels of thirty-two rows, whose numbers fill vectors, and the weights are broadcast one by one, which
//! asks for no order but the one they have. A tile is of the transpose of the result.

use std::cell::RefCell;
use std::ops::Range;

use super::panels::pack;
use super::tile::COLUMNS;
use super::{DEPTH, WORTH_A_THREAD, parts};
use crate::kernel::host::lanes::{Lanes, WithLanes, with_lanes};
use crate::kernel::host::mat::{Mat, MatMut, SharedMat};
use crate::kernel::host::sixteen;
use crate::kernel::host::team::Threads;

/// Rows of weights of a tile.
const ROWS: usize = 6;
/// Most rows of weights of a task.
const TASK_ROWS: usize = 8 * ROWS;
/// Depths from a load to the loads that are asked for meanwhile.
const AHEAD: usize = 8;

thread_local! {
    /// Memory that is used again by every product of a thread.
    static PACKED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// `out[m, n] = a[m, k]·w[n, k]ᵀ` for each `(out, w)`, or `out += a·wᵀ` if `accumulate`: the bits of
/// [`gemms`](super::gemms). The caller packs `a` alone, and all of it is read again for every six rows of weights: it should
/// not be much larger than the second cache.
pub(in crate::kernel) fn gemms_unpacked(
    products: Vec<(MatMut<'_>, Mat<'_>)>,
    accumulate: bool,
    a: Mat<'_>,
    threads: Threads,
) {
    let (m, k) = (a.rows, a.cols);
    for (out, w) in &products {
        assert_eq!((out.rows, out.cols, w.cols, w.col_stride), (m, w.rows, k, 1), "sizes of a product");
    }
    let n: usize = products.iter().map(|(_, w)| w.rows).sum();
    if m == 0 || n == 0 {
        return;
    }
    assert!(k > 0, "a product has an inner axis");
    let threads = if m.saturating_mul(n).saturating_mul(k) < WORTH_A_THREAD { Threads::One } else { threads };
    let task_rows = (n / (4 * threads.count())).next_multiple_of(ROWS).clamp(ROWS, TASK_ROWS);
    let products: Vec<_> = products.into_iter().map(|(out, w)| (SharedMat::of(out), w)).collect();
    let tasks: Vec<_> =
        products.iter().flat_map(|(out, w)| parts(0..w.rows, task_rows).map(move |rows| (out, w, rows))).collect();
    PACKED.with_borrow_mut(|packed| {
        for depths in parts(0..k, k.div_ceil(k.div_ceil(DEPTH))) {
            packed.resize(m.next_multiple_of(COLUMNS) * depths.len(), 0.0);
            pack::<f32, COLUMNS>(a, 0..m, depths.clone(), packed);
            let accumulate = accumulate || depths.start > 0;
            threads.for_each(tasks.len(), |index| {
                let (out, w, rows) = tasks[index].clone();
                with_lanes(Task { out, accumulate, w, rows, depths: depths.clone(), packed, m });
            });
        }
    });
}

/// Some rows of weights, and so some columns of the result.
struct Task<'a> {
    out: &'a SharedMat<'a>,
    accumulate: bool,
    w: &'a Mat<'a>,
    rows: Range<usize>,
    depths: Range<usize>,
    packed: &'a [f32],
    m: usize,
}

/// The sums of a tile.
type Sums = [[f32; COLUMNS]; ROWS];

impl WithLanes for Task<'_> {
    #[inline(always)]
    fn with_lanes<L: Lanes>(self, lanes: L) {
        let depth = self.depths.len();
        let mut sums: Sums = [[0.0; COLUMNS]; ROWS];
        for rows in parts(self.rows.clone(), ROWS) {
            // In the place of a row that is not there stands the last one, whose sums are not looked at.
            let mut weights = [[].as_slice(); ROWS];
            for (weights, row) in weights.iter_mut().zip(rows.start..) {
                let start = row.min(rows.end - 1) * self.w.row_stride + self.depths.start;
                *weights = &self.w.data[start..start + depth];
            }
            for (panel, columns) in self.packed.chunks_exact(COLUMNS * depth).zip(parts(0..self.m, COLUMNS)) {
                // Twelve sums, of as many numbers as a register has.
                if L::REGISTERS == 32 {
                    part::<L, 2>(lanes, weights, panel, 0, &mut sums);
                } else {
                    for column in (0..columns.len()).step_by(16) {
                        part::<L, 1>(lanes, weights, panel, column, &mut sums);
                    }
                }
                self.put(&rows, columns, &sums);
            }
        }
    }
}

impl Task<'_> {
    /// Writes or adds the transpose of a tile.
    #[inline(always)]
    #[expect(unsafe_code, reason = "the tasks of a loop write to distinct columns")]
    fn put(&self, rows: &Range<usize>, columns: Range<usize>, sums: &Sums) {
        for (index, column) in columns.enumerate() {
            // SAFETY: a row of weights, which is a column of the result, is in one task of its product alone.
            let target = unsafe { self.out.row(column, rows.clone()) };
            for (target, sums) in target.iter_mut().zip(sums) {
                *target = if self.accumulate { *target + sums[index] } else { sums[index] };
            }
        }
    }
}

/// `sums[r] = Σ_depth weights[r][depth] · panel[depth]`, for `V` times sixteen numbers of the panel from `column` on.
#[inline(always)]
#[expect(unsafe_code, reason = "a check for each of the weights would be as many instructions as products")]
fn part<L: Lanes, const V: usize>(lanes: L, weights: [&[f32]; ROWS], panel: &[f32], column: usize, sums: &mut Sums) {
    let steps = panel.as_chunks::<COLUMNS>().0;
    let weights = weights.map(|row| &row[..steps.len()]);
    let mut totals = [[lanes.splat(0.0); V]; ROWS];
    for (depth, step) in steps.iter().enumerate() {
        for line in (column..column + V * 16).step_by(16) {
            lanes.prefetch(step.as_ptr().wrapping_add(AHEAD * COLUMNS + line));
        }
        let mut numbers = [lanes.splat(0.0); V];
        for (v, numbers) in numbers.iter_mut().enumerate() {
            *numbers = lanes.load(sixteen(step, column + v * 16));
        }
        for (totals, row) in totals.iter_mut().zip(weights) {
            // SAFETY: every row has been cut to as many depths as there are steps.
            let weight = lanes.splat(unsafe { *row.get_unchecked(depth) });
            for (total, numbers) in totals.iter_mut().zip(numbers) {
                *total = lanes.mul_add(weight, numbers, *total);
            }
        }
    }
    for (sums, totals) in sums.iter_mut().zip(totals) {
        let (sixteens, _) = sums[column..].as_chunks_mut::<16>();
        for (sixteen, total) in sixteens.iter_mut().zip(totals) {
            lanes.store(total, sixteen);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::numbers;
    use super::*;
    use crate::kernel::host::Plain;

    #[test]
    fn two_vectors_of_a_panel_give_the_sums_of_one_and_one() {
        let (rows, panel) = (numbers(ROWS * 19), numbers(COLUMNS * 19));
        let mut weights = [[].as_slice(); ROWS];
        weights.iter_mut().zip(rows.chunks_exact(19)).for_each(|(weights, row)| *weights = row);
        let (mut both, mut each): (Sums, Sums) = ([[0.0; COLUMNS]; ROWS], [[1.0; COLUMNS]; ROWS]);
        part::<_, 2>(Plain, weights, &panel, 0, &mut both);
        part::<_, 1>(Plain, weights, &panel, 0, &mut each);
        assert_ne!(both, each);
        part::<_, 1>(Plain, weights, &panel, 16, &mut each);
        assert_eq!(both, each);
    }
}
