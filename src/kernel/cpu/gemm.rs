//! `C = A·B (+ C)` on strided slices.
//!
//! Both operands are packed (but see [`unpacked`]) in the order in which they are read (Goto & van de Geijn, *Anatomy of High-Performance Matrix
//! Multiplication*, 2008): `A` once, in panels of twelve rows, by all threads; `B` by the tasks, each its own columns in
//! panels of thirty-two, where half precision is widened as well. A tile of 12×32 sums stays in registers.
//! Every sum runs over the inner axis in one order, which no number of threads changes.

mod panel_product;
mod panels;
mod tile;
mod unpacked;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::lanes::{Lanes, WithLanes, with_lanes};
use super::mat::{Mat, MatMut, SharedMat};
use super::spin_pool::Threads;
use super::weight_rows::Widen;
pub(in crate::kernel) use panel_product::{PANEL_WIDTH, PanelRow, panel_product};
pub(in crate::kernel) use panels::pack;
use tile::{COLUMNS, ROWS, Sums, tile};
pub(in crate::kernel) use unpacked::gemms_unpacked;

/// Terms of a sum that are added in registers: as many lines of both panels as the second cache holds.
const DEPTH: usize = 768;
/// Rows of `A` that are packed at once.
const BLOCK_ROWS: usize = 128 * ROWS;
/// Columns of a task: panels of `B` that stay in the second cache while all of `A` passes by.
const BLOCK_COLUMNS: usize = 3 * COLUMNS;
/// Below so many products a second thread is not worth its wake.
const WORTH_A_THREAD: usize = 64 * 64 * 64;

/// `out = a·b`, or `out += a·b` if `accumulate`.
pub(in crate::kernel) fn gemm<W: Widen>(
    out: MatMut<'_>,
    accumulate: bool,
    a: Mat<'_>,
    b: Mat<'_, W>,
    threads: Threads,
) {
    gemms(vec![(out, b)], accumulate, a, threads);
}

/// The same for several `b`, each with its own `out`: `a` is packed once, and no thread waits between two of them.
pub(in crate::kernel) fn gemms<W: Widen>(
    mut products: Vec<(MatMut<'_>, Mat<'_, W>)>,
    accumulate: bool,
    a: Mat<'_>,
    threads: Threads,
) {
    let (m, k) = (a.rows, a.cols);
    for (out, b) in &products {
        assert_eq!((out.rows, out.cols, b.rows), (m, b.cols, k), "sizes of a product");
    }
    if k == 0 && !accumulate {
        for (out, _) in &mut products {
            out.data.chunks_mut(out.row_stride.max(1)).take(m).for_each(|row| row[..out.cols].fill(0.0));
        }
    }
    let n: usize = products.iter().map(|(out, _)| out.cols).sum();
    if m == 0 || k == 0 || n == 0 {
        return;
    }
    let threads = if m.saturating_mul(n).saturating_mul(k) < WORTH_A_THREAD { Threads::One } else { threads };
    let products: Vec<_> = products.into_iter().map(|(out, b)| (SharedMat::of(out), b)).collect();
    for depths in parts(0..k, k.div_ceil(k.div_ceil(DEPTH))) {
        let terms = Terms { products: &products, accumulate: accumulate || depths.start > 0, a, depths };
        for rows in parts(0..m, BLOCK_ROWS) {
            PACKED_A.with_borrow_mut(|packed| terms.rows(&rows, packed, threads));
        }
    }
}

thread_local! {
    /// Memory that is used again by every product of a thread.
    static PACKED_A: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static PACKED_B: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// The terms `depths` of all sums of some products with one matrix.
struct Terms<'a, W> {
    products: &'a [(SharedMat<'a>, Mat<'a, W>)],
    accumulate: bool,
    a: Mat<'a>,
    depths: Range<usize>,
}

impl<W: Widen> Terms<'_, W> {
    /// Some rows of the result.
    fn rows(&self, rows: &Range<usize>, packed: &mut Vec<f32>, threads: Threads) {
        let panel = ROWS * self.depths.len();
        packed.resize(rows.len().div_ceil(ROWS) * panel, 0.0);
        let packs: Vec<_> = parts(rows.clone(), 8 * ROWS).zip(packed.chunks_mut(8 * panel)).map(Mutex::new).collect();
        threads.for_each(packs.len(), |index| {
            let mut pack_of_one = packs[index].lock().unwrap_or_else(PoisonError::into_inner);
            let (rows, panels) = &mut *pack_of_one;
            pack::<f32, ROWS>(self.a, rows.clone(), self.depths.clone(), panels);
        });

        let columns: Vec<_> = self
            .products
            .iter()
            .flat_map(|product| parts(0..product.1.cols, BLOCK_COLUMNS).map(move |columns| (product, columns)))
            .collect();
        let wanted = if threads == Threads::Pool { 2 * rayon::current_num_threads() } else { 1 };
        let step = rows.len().div_ceil(wanted.div_ceil(columns.len())).max(4 * ROWS).next_multiple_of(ROWS);
        let bands: Vec<_> = parts(rows.clone(), step).zip(packed.chunks(step / ROWS * panel)).collect();
        threads.for_each(bands.len() * columns.len(), |index| {
            let (rows, left) = &bands[index / columns.len()];
            let (product, columns) = &columns[index % columns.len()];
            self.tiles(product, rows.clone(), left, columns.clone());
        });
    }

    /// Some rows, packed, and some columns of one result.
    fn tiles(&self, (out, b): &(SharedMat<'_>, Mat<'_, W>), rows: Range<usize>, left: &[f32], columns: Range<usize>) {
        PACKED_B.with_borrow_mut(|right| {
            right.resize(columns.len().next_multiple_of(COLUMNS) * self.depths.len(), 0.0);
            pack::<W, COLUMNS>(b.t(), columns.clone(), self.depths.clone(), right);
            let (accumulate, depth) = (self.accumulate, self.depths.len());
            with_lanes(Tiles { out, accumulate, depth, rows, columns, left, right });
        });
    }
}

/// All tiles of two packed operands.
struct Tiles<'a> {
    out: &'a SharedMat<'a>,
    accumulate: bool,
    depth: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    left: &'a [f32],
    right: &'a [f32],
}

impl WithLanes for Tiles<'_> {
    #[inline(always)]
    fn with_lanes<L: Lanes>(self, lanes: L) {
        let mut sums: Sums = [[0.0; COLUMNS]; ROWS];
        for (left, rows) in self.left.chunks_exact(ROWS * self.depth).zip(parts(self.rows, ROWS)) {
            for (right, columns) in
                self.right.chunks_exact(COLUMNS * self.depth).zip(parts(self.columns.clone(), COLUMNS))
            {
                tile(lanes, left, right, rows.len(), &mut sums);
                put(self.out, rows.clone(), columns, &sums, self.accumulate);
            }
        }
    }
}

/// Writes or adds the first sums of each row of a tile.
#[inline(always)]
#[expect(unsafe_code, reason = "the tasks of a loop write to distinct tiles")]
fn put(out: &SharedMat<'_>, rows: Range<usize>, columns: Range<usize>, sums: &Sums, accumulate: bool) {
    for (row, sums) in rows.zip(sums) {
        // SAFETY: `Terms::rows` pairs every band of rows with every part of the columns once.
        let target = unsafe { out.row(row, columns.clone()) };
        match target.as_mut_array::<COLUMNS>() {
            Some(target) if !accumulate => *target = *sums,
            Some(target) => target.iter_mut().zip(sums).for_each(|(target, sum)| *target += sum),
            None if !accumulate => target.copy_from_slice(&sums[..columns.len()]),
            None => target.iter_mut().zip(sums).for_each(|(target, sum)| *target += sum),
        }
    }
}

/// A range cut into parts of `step`.
fn parts(range: Range<usize>, step: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(step).map(move |start| start..(start + step).min(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn numbers(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0).collect()
    }

    #[test]
    fn a_product_of_strided_and_transposed_matrices_is_the_sum_over_the_inner_axis() {
        for (m, k, n) in [(1, 1, 1), (3, 5, 2), (17, 9, 33), (1, 40, 7), (29, 1600, 130), (200, 7, 250)] {
            let (a, b) = (numbers(m * (k + 3)), numbers(n * k));
            let mut out = vec![1.0; m * (n + 2)];
            let rows = Mat::strided(&a, m, k, k + 3);
            gemm(MatMut::strided(&mut out, m, n, n + 2), true, rows, Mat::new(&b, n, k).t(), Threads::Pool);
            for i in 0..m {
                for j in 0..n {
                    let terms = (0..k).map(|l| f64::from(a[i * (k + 3) + l]) * f64::from(b[j * k + l]));
                    let (sum, size) = terms.fold((1.0, 1.0), |(sum, size), term| (sum + term, size + term.abs()));
                    assert!(
                        (f64::from(out[i * (n + 2) + j]) - sum).abs()
                            <= f64::from(f32::EPSILON) * (k as f64).sqrt() * size,
                        "{m}×{k}×{n} at {i},{j}"
                    );
                }
            }
            assert!(m == 1 || out[n] == 1.0, "what lies between rows is untouched");
        }
    }

    #[test]
    fn weights_read_where_they_lie_give_the_product_of_packed_ones() {
        for (m, k, n) in [(1, 1, 1), (3, 5, 2), (17, 9, 33), (32, 40, 6), (65, 1600, 50), (100, 70, 131)] {
            let (a, w) = (numbers(m * (k + 3)), numbers(2 * n * (k + 1)));
            let (first, second) = w.split_at(n * (k + 1));
            let a = Mat::strided(&a, m, k, k + 3);
            let [first, second] = [first, second].map(|w| Mat::strided(w, n, k, k + 1));
            for accumulate in [false, true] {
                let mut expected = vec![2.0; 2 * m * n];
                let (one, other) = expected.split_at_mut(m * n);
                gemm(MatMut::new(one, m, n), accumulate, a, first.t(), Threads::One);
                gemm(MatMut::new(other, m, n), accumulate, a, second.t(), Threads::One);
                for threads in [Threads::One, Threads::Pool] {
                    let mut found = vec![2.0; 2 * m * n];
                    let (one, other) = found.split_at_mut(m * n);
                    let products = vec![(MatMut::new(one, m, n), first), (MatMut::new(other, m, n), second)];
                    gemms_unpacked(products, accumulate, a, threads);
                    assert_eq!(found, expected, "{m}×{k}×{n}");
                }
            }
        }
    }

    #[test]
    fn an_empty_inner_axis_gives_zeros() {
        let mut out = vec![7.0; 6];
        gemm(MatMut::new(&mut out, 2, 3), false, Mat::new(&[], 2, 0), Mat::<f32>::new(&[], 0, 3), Threads::One);
        assert_eq!(out, [0.0; 6]);
        gemm(MatMut::new(&mut out, 2, 3), true, Mat::new(&[], 2, 0), Mat::<f32>::new(&[], 0, 3), Threads::One);
        assert_eq!(out, [0.0; 6]);
    }
}
