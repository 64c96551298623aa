//! `C = A·B (+ C)` on strided slices.
//!
//! Both operands are packed in the order in which they are read (Goto & van de Geijn, *Anatomy of High-Performance Matrix
//! Multiplication*, 2008): `A` once, in panels of twelve rows, by all threads; `B` by the tasks, each its own columns in
//! panels of thirty-two, where half precision is widened as well. A tile of 12×32 sums stays in registers.
//! Every sum runs over the inner axis in one order, which no number of threads changes.

mod panels;
mod tile;

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::lanes::{Lanes, WithLanes, with_lanes};
use super::team::for_each;
use super::weight_rows::Widen;
use panels::pack;
use tile::{COLUMNS, ROWS, Sums, tile};

/// Terms of a sum that are added in registers: as many lines of both panels as the second cache holds.
const DEPTH: usize = 768;
/// Rows of `A` that are packed at once.
const BLOCK_ROWS: usize = 128 * ROWS;
/// Columns of a task: panels of `B` that stay in the second cache while all of `A` passes by.
const BLOCK_COLUMNS: usize = 3 * COLUMNS;
/// Below so many products a second thread is not worth its wake.
const WORTH_A_THREAD: usize = 64 * 64 * 64;

/// A matrix seen through strides.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Mat<'a, W = f32> {
    data: &'a [W],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

/// A matrix to write to, rows next to each other or `row_stride` apart.
pub(in crate::kernel) struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

/// Whether a product may use the whole thread pool or is one task of a parallel loop.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::kernel) enum Threads {
    /// As many as there are, if the product is large enough to pay for the fork.
    Pool,
    /// The calling thread.
    One,
}

impl<'a, W> Mat<'a, W> {
    /// `rows × cols`, row-major.
    pub(in crate::kernel) fn new(data: &'a [W], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// `rows × cols` with rows `row_stride` apart.
    pub(in crate::kernel) fn strided(data: &'a [W], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(fits(data.len(), rows, cols, row_stride), "{rows}×{cols} by {row_stride} of {}", data.len());
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transpose; nothing moves.
    pub(in crate::kernel) fn t(self) -> Self {
        let Self { data, rows, cols, row_stride, col_stride } = self;
        Self { data, rows: cols, cols: rows, row_stride: col_stride, col_stride: row_stride }
    }
}

impl<'a> MatMut<'a> {
    /// `rows × cols`, row-major.
    pub(in crate::kernel) fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// `rows × cols` with rows `row_stride` apart; what lies between is untouched.
    pub(in crate::kernel) fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(fits(data.len(), rows, cols, row_stride), "{rows}×{cols} by {row_stride} of {}", data.len());
        assert!(row_stride >= cols, "rows of an output do not overlap");
        Self { data, rows, cols, row_stride }
    }
}

/// Whether every element of a strided matrix lies within `len`; no product or sum wraps.
fn fits(len: usize, rows: usize, cols: usize, row_stride: usize) -> bool {
    let last_row = rows.saturating_sub(1).checked_mul(row_stride);
    let end = last_row.and_then(|start| start.checked_add(cols));
    row_stride <= isize::MAX as usize && end.is_some_and(|end| rows == 0 || cols == 0 || end <= len)
}

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
    let pool = threads == Threads::Pool && m.saturating_mul(n).saturating_mul(k) >= WORTH_A_THREAD;
    let products: Vec<_> = products.into_iter().map(|(out, b)| (Target::of(out), b)).collect();
    for depths in parts(0..k, k.div_ceil(k.div_ceil(DEPTH))) {
        let terms = Terms { products: &products, accumulate: accumulate || depths.start > 0, a, depths };
        for rows in parts(0..m, BLOCK_ROWS) {
            PACKED_A.with_borrow_mut(|packed| terms.rows(&rows, packed, pool));
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
    products: &'a [(Target<'a>, Mat<'a, W>)],
    accumulate: bool,
    a: Mat<'a>,
    depths: Range<usize>,
}

impl<W: Widen> Terms<'_, W> {
    /// Some rows of the result.
    fn rows(&self, rows: &Range<usize>, packed: &mut Vec<f32>, pool: bool) {
        let panel = ROWS * self.depths.len();
        packed.resize(rows.len().div_ceil(ROWS) * panel, 0.0);
        let in_turn = |len: usize, task: &(dyn Fn(usize) + Sync)| {
            if pool { for_each(len, task) } else { (0..len).for_each(task) }
        };

        let packs: Vec<_> = parts(rows.clone(), 8 * ROWS).zip(packed.chunks_mut(8 * panel)).map(Mutex::new).collect();
        in_turn(packs.len(), &|index| {
            let mut pack_of_one = packs[index].lock().unwrap_or_else(PoisonError::into_inner);
            let (rows, panels) = &mut *pack_of_one;
            pack::<f32, ROWS>(self.a, rows.clone(), self.depths.clone(), panels);
        });

        let columns: Vec<_> = self
            .products
            .iter()
            .flat_map(|product| parts(0..product.1.cols, BLOCK_COLUMNS).map(move |columns| (product, columns)))
            .collect();
        let wanted = if pool { 2 * rayon::current_num_threads() } else { 1 };
        let step = rows.len().div_ceil(wanted.div_ceil(columns.len())).max(4 * ROWS).next_multiple_of(ROWS);
        let bands: Vec<_> = parts(rows.clone(), step).zip(packed.chunks(step / ROWS * panel)).collect();
        in_turn(bands.len() * columns.len(), &|index| {
            let (rows, left) = &bands[index / columns.len()];
            let (product, columns) = &columns[index % columns.len()];
            self.tiles(product, rows.clone(), left, columns.clone());
        });
    }

    /// Some rows, packed, and some columns of one result.
    fn tiles(&self, (out, b): &(Target<'_>, Mat<'_, W>), rows: Range<usize>, left: &[f32], columns: Range<usize>) {
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
    out: &'a Target<'a>,
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
                self.out.put(rows.clone(), columns, &sums, self.accumulate);
            }
        }
    }
}

/// The result, which the tasks fill.
struct Target<'a> {
    data: *mut f32,
    rows: usize,
    cols: usize,
    row_stride: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer stands for the mutable borrow that `of` took, and tasks write to tiles of their own: `Terms::rows`
// pairs every band of rows with every part of the columns once.
#[expect(unsafe_code, reason = "tasks on several threads write to distinct tiles of one borrowed matrix")]
unsafe impl Sync for Target<'_> {}

impl<'a> Target<'a> {
    fn of(MatMut { data, rows, cols, row_stride }: MatMut<'a>) -> Self {
        Self { data: data.as_mut_ptr(), rows, cols, row_stride, borrow: PhantomData }
    }

    /// Writes or adds the first sums of each row.
    #[inline(always)]
    #[expect(unsafe_code, reason = "tiles of one matrix are no slices of it")]
    fn put(&self, rows: Range<usize>, columns: Range<usize>, sums: &Sums, accumulate: bool) {
        assert!(rows.end <= self.rows && columns.end <= self.cols, "a tile inside the result");
        for (row, sums) in rows.zip(sums) {
            // SAFETY: `MatMut` has checked that the row and the columns lie inside the borrowed slice; no other task
            // has this tile, and nobody reads before the borrow ends.
            let target = unsafe {
                std::slice::from_raw_parts_mut(self.data.add(row * self.row_stride + columns.start), columns.len())
            };
            match (target.as_mut_array::<COLUMNS>(), accumulate) {
                (Some(target), false) => *target = *sums,
                (Some(target), true) => target.iter_mut().zip(sums).for_each(|(target, sum)| *target += sum),
                (None, false) => target.copy_from_slice(&sums[..columns.len()]),
                (None, true) => target.iter_mut().zip(sums).for_each(|(target, sum)| *target += sum),
            }
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

    fn numbers(n: usize) -> Vec<f32> {
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
    fn an_empty_inner_axis_gives_zeros() {
        let mut out = vec![7.0; 6];
        gemm(MatMut::new(&mut out, 2, 3), false, Mat::new(&[], 2, 0), Mat::<f32>::new(&[], 0, 3), Threads::One);
        assert_eq!(out, [0.0; 6]);
        gemm(MatMut::new(&mut out, 2, 3), true, Mat::new(&[], 2, 0), Mat::<f32>::new(&[], 0, 3), Threads::One);
        assert_eq!(out, [0.0; 6]);
    }

    #[test]
    #[should_panic(expected = "2×3 by 3 of 5")]
    fn a_matrix_must_fit_its_slice() {
        Mat::new(&[0.0_f32; 5], 2, 3);
    }
}
