//! `C = A·Wᵀ (+ C)` with `W` read where it lies.
//!
//! To pack a matrix of weights takes as long as to multiply some dozens of rows with it. Here the operands change places:
//! `A` is packed in panels of thirty-two rows, whose numbers fill vectors, and the weights are broadcast one by one, which
//! asks for no order but the one they have. A tile is of the transpose of the result.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::panel_product::{PANEL_WIDTH, PanelRow, panel_product};
use super::panels::pack;
use super::{DEPTH, WORTH_A_THREAD, parts};
use crate::kernel::cpu::lanes::{Lanes, WithLanes, with_lanes};
use crate::kernel::cpu::mat::{Mat, MatMut, SharedMat};
use crate::kernel::cpu::spin_pool::Threads;

/// Rows of weights that pass by a panel while it is in the first cache, a multiple of those of every tile.
const ROWS: usize = 24;
/// Most rows of weights of a task.
const TASK_ROWS: usize = 2 * ROWS;

thread_local! {
    /// Memory that is used again by every product of a thread.
    static PACKED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// `out[m, n] = a[m, k]·w[n, k]ᵀ` for each `(out, w)`, or `out += a·wᵀ` if `accumulate`: the bits of
/// [`gemms`](super::gemms). Only `a` is packed, by all threads, and all of it is read again for every [`ROWS`] rows of weights:
/// it should not be much larger than the second cache.
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
            packed.resize(m.next_multiple_of(PANEL_WIDTH) * depths.len(), 0.0);
            let panels: Vec<_> =
                parts(0..m, PANEL_WIDTH).zip(packed.chunks_mut(PANEL_WIDTH * depths.len())).map(Mutex::new).collect();
            threads.for_each(panels.len(), |index| {
                let mut one = panels[index].lock().unwrap_or_else(PoisonError::into_inner);
                let (rows, panel) = &mut *one;
                pack::<f32, PANEL_WIDTH>(a, rows.clone(), depths.clone(), panel);
            });
            drop(panels);
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

impl WithLanes for Task<'_> {
    #[inline(always)]
    fn with_lanes<L: Lanes>(self, lanes: L) {
        let depth = self.depths.len();
        let mut sums = [[0.0; PANEL_WIDTH]; ROWS];
        for rows in parts(self.rows.clone(), ROWS) {
            let start = rows.start * self.w.row_stride + self.depths.start;
            let weights = Mat::strided(&self.w.data[start..], rows.len(), depth, self.w.row_stride);
            for (panel, columns) in self.packed.chunks_exact(PANEL_WIDTH * depth).zip(parts(0..self.m, PANEL_WIDTH)) {
                let (panel, sums) = (panel.as_chunks().0, &mut sums[..rows.len()]);
                panel_product(lanes, weights, panel, columns.len(), None, sums);
                self.put(&rows, columns, sums);
            }
        }
    }
}

impl Task<'_> {
    /// Writes or adds the transpose of a tile.
    #[inline(always)]
    #[expect(unsafe_code, reason = "the tasks of a loop write to distinct columns")]
    fn put(&self, rows: &Range<usize>, columns: Range<usize>, sums: &[PanelRow]) {
        for (index, column) in columns.enumerate() {
            // SAFETY: a row of weights, which is a column of the result, is in one task of its product alone.
            let target = unsafe { self.out.row(column, rows.clone()) };
            for (target, sums) in target.iter_mut().zip(sums) {
                *target = if self.accumulate { *target + sums[index] } else { sums[index] };
            }
        }
    }
}
