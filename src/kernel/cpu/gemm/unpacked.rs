//! GEMM with weights read in place: `C = A·Wᵀ (+ C)`.
//!
//! Packing a weight matrix takes as long as multiplying some dozens of rows with it. Here the operands swap roles: `A` is
//! packed in panels of 32 rows, which fill the vectors, and the weights are broadcast, which needs no packing. Tiles are
//! of `Cᵀ`.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::panel_product::{PANEL_WIDTH, PanelRow, panel_product};
use super::panels::pack;
use super::tiling::blocks;
use super::{DEPTH, MIN_PARALLEL_WORK};
use crate::kernel::cpu::lanes::{Lanes, WithLanes, with_lanes};
use crate::kernel::cpu::mat::{Mat, MatMut, SharedMat};
use crate::kernel::cpu::spin_pool::Threads;

/// Rows of weights multiplied with a panel while it is in L1; a multiple of the rows of every tile.
const ROWS: usize = 24;
/// Cap on the rows of weights per task.
const MAX_TASK_ROWS: usize = 2 * ROWS;

thread_local! {
    /// Packing buffer, reused by the products of a thread.
    static PACKED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// `out[m, n] = a[m, k]·w[n, k]ᵀ` for each `(out, w)`, or `out += a·wᵀ` if `accumulate`, with the bits of
/// [`gemms`](super::gemms) without AMX. All of `a` is packed, by all threads, and read again for every [`ROWS`] rows of
/// weights: it should not be much larger than L2.
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
    assert!(k > 0, "the inner axis is not empty");
    let threads = if m.saturating_mul(n).saturating_mul(k) < MIN_PARALLEL_WORK { Threads::One } else { threads };
    let task_rows = (n / (4 * threads.count())).next_multiple_of(ROWS).clamp(ROWS, MAX_TASK_ROWS);
    let products: Vec<_> = products.into_iter().map(|(out, w)| (SharedMat::new(out), w)).collect();
    let tasks: Vec<_> =
        products.iter().flat_map(|(out, w)| blocks(0..w.rows, task_rows).map(move |rows| (out, w, rows))).collect();
    PACKED.with_borrow_mut(|packed| {
        for depths in blocks(0..k, k.div_ceil(k.div_ceil(DEPTH))) {
            packed.resize(m.next_multiple_of(PANEL_WIDTH) * depths.len(), 0.0);
            let panels: Vec<_> =
                blocks(0..m, PANEL_WIDTH).zip(packed.chunks_mut(PANEL_WIDTH * depths.len())).map(Mutex::new).collect();
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

/// Some rows of weights, which are columns of `C`.
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
        for rows in blocks(self.rows.clone(), ROWS) {
            let start = rows.start * self.w.row_stride + self.depths.start;
            let weights = Mat::strided(&self.w.data[start..], rows.len(), depth, self.w.row_stride);
            for (panel, columns) in self.packed.chunks_exact(PANEL_WIDTH * depth).zip(blocks(0..self.m, PANEL_WIDTH)) {
                let (panel, sums) = (panel.as_chunks().0, &mut sums[..rows.len()]);
                panel_product(lanes, weights, panel, columns.len(), None, sums);
                self.store(&rows, columns, sums);
            }
        }
    }
}

impl Task<'_> {
    /// Writes or accumulates the transpose of a tile.
    #[inline(always)]
    #[expect(unsafe_code, reason = "parallel tasks write to disjoint columns")]
    fn store(&self, rows: &Range<usize>, columns: Range<usize>, sums: &[PanelRow]) {
        for (index, column) in columns.enumerate() {
            // SAFETY: each row of weights, a column of `C`, is in one task.
            let target = unsafe { self.out.row(column, rows.clone()) };
            for (target, sums) in target.iter_mut().zip(sums) {
                *target = if self.accumulate { *target + sums[index] } else { sums[index] };
            }
        }
    }
}
