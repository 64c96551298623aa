//! GEMM: `C = A·B (+ C)` on strided matrices.
//!
//! Both operands are packed in the order in which the micro-kernel reads them (Goto & van de Geijn, *Anatomy of
//! High-Performance Matrix Multiplication*, 2008), except in [`unpacked`]. `A` is packed once, by all threads, in panels of
//! rows. Each task packs its own columns of `B` in panels of 32. A [`Tiling`] has the layout of the panels and the
//! micro-kernel: [`Float32`] keeps a 12×32 tile of `C` in vector registers and widens half precision while packing; [`amx`]
//! keeps a 32×32 tile in tile registers, of operands that are rounded to bfloat16 or split in up to three parts. The order of
//! summation does not depend on the number of threads.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
mod buffer;
mod float32;
mod panel_product;
mod panels;
mod tile;
mod tiling;
mod unpacked;

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::mat::{Mat, MatMut, SharedMat};
use super::spin_pool::Threads;
use super::weight_rows::Widen;
use buffer::Buffer;
use float32::Float32;
pub(in crate::kernel) use panel_product::{PANEL_WIDTH, PanelRow, panel_product};
pub(in crate::kernel) use panels::pack;
use tiling::{COLUMNS, Tiles, Tiling, blocks};
pub(in crate::kernel) use unpacked::gemms_unpacked;

/// Depth of a packed block (`kc`): the panels of a tile fit in L2.
const DEPTH: usize = 768;
/// Rows of `A` packed at once (`mc`).
const BLOCK_ROWS: usize = 1536;
/// Fewest columns of `B` in a task. Fewer do not pay for reading all of `A`.
const MIN_TASK_COLUMNS: usize = 3 * COLUMNS;
/// Fewest panels of `A` in a task. Fewer do not pay for packing its columns of `B`.
const MIN_BAND_PANELS: usize = 4;
/// Rows of `A` up to which reading float32 weights in place ([`gemms_unpacked`]) is faster than packing them.
const MAX_UNPACKED_ROWS: usize = 255;
/// [`MAX_UNPACKED_ROWS`] where AMX multiplies the packed ones.
const MAX_UNPACKED_ROWS_AMX: usize = 79;
/// Rows of `A` from which float32 is split for AMX: splitting `B` takes as long as multiplying some dozens of rows.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
const MIN_SPLIT_ROWS: usize = 64;
/// Multiply-adds below which a product runs on one thread: waking a second costs more.
const MIN_PARALLEL_WORK: usize = 64 * 64 * 64;

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

/// [`gemm`] of one `a` with several `b`: `a` is packed once, and no thread waits between the products. Many rows are
/// multiplied by AMX if the CPU has it, as exactly as in float32.
pub(in crate::kernel) fn gemms<W: Widen>(
    products: Vec<(MatMut<'_>, Mat<'_, W>)>,
    accumulate: bool,
    a: Mat<'_>,
    threads: Threads,
) {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if a.rows >= MIN_SPLIT_ROWS
        && let Some(amx) = amx::Split::detect()
    {
        return gemms_tiled(amx, products, accumulate, a, threads);
    }
    gemms_tiled(Float32, products, accumulate, a, threads);
}

/// [`gemms`] for products that may round to bfloat16: by the CPU's matrix instructions if it has any, which round both
/// operands, else without rounding.
pub(in crate::kernel) fn gemms_bfloat16<W: Widen>(
    products: Vec<(MatMut<'_>, Mat<'_, W>)>,
    accumulate: bool,
    a: Mat<'_>,
    threads: Threads,
) {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if let Some(amx) = amx::Rounded::detect() {
        return gemms_tiled(amx, products, accumulate, a, threads);
    }
    gemms(products, accumulate, a, threads);
}

/// Rows of `A` up to which [`gemms_unpacked`] is faster than [`gemms`] of float32 weights.
pub(in crate::kernel) fn max_unpacked_rows() -> usize {
    if matrix_instructions().is_some() { MAX_UNPACKED_ROWS_AMX } else { MAX_UNPACKED_ROWS }
}

/// The matrix instructions that [`gemms`] and [`gemms_bfloat16`] use on this CPU.
pub(in crate::kernel) fn matrix_instructions() -> Option<&'static str> {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if amx::Rounded::detect().is_some() {
        return Some("AMX (bfloat16)");
    }
    None
}

/// [`gemms`] by one tiling.
fn gemms_tiled<T: Tiling, W: Widen>(
    tiling: T,
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
    let threads = if m.saturating_mul(n).saturating_mul(k) < MIN_PARALLEL_WORK { Threads::One } else { threads };
    let products: Vec<_> = products.into_iter().map(|(out, b)| (SharedMat::new(out), b)).collect();
    for depths in blocks(0..k, k.div_ceil(k.div_ceil(DEPTH))) {
        let block = DepthBlock { tiling, products: &products, accumulate: accumulate || depths.start > 0, a, depths };
        for rows in blocks(0..m, BLOCK_ROWS) {
            block.rows(&rows, threads);
        }
    }
}

/// Columns of a task: whole panels, at most `most`, and fewer if `n` columns would make fewer than `min_tasks` tasks, but not below
/// [`MIN_TASK_COLUMNS`].
fn task_columns(n: usize, min_tasks: usize, most: usize) -> usize {
    (n / min_tasks / COLUMNS * COLUMNS).clamp(MIN_TASK_COLUMNS.min(most), most)
}

/// A block of the inner axis of several products with one `A`.
struct DepthBlock<'a, T, W> {
    tiling: T,
    products: &'a [(SharedMat<'a>, Mat<'a, W>)],
    accumulate: bool,
    a: Mat<'a>,
    depths: Range<usize>,
}

impl<T: Tiling, W: Widen> DepthBlock<'_, T, W> {
    /// Computes some rows of all products.
    fn rows(&self, rows: &Range<usize>, threads: Threads) {
        let panel = T::panel_len(self.depths.len());
        let mut buffer = Buffer::new();
        let packed = buffer.elements::<T::Packed>(rows.len().div_ceil(T::ROWS) * panel);
        let packs: Vec<_> =
            blocks(rows.clone(), 8 * T::ROWS).zip(packed.chunks_mut(8 * panel)).map(Mutex::new).collect();
        threads.for_each(packs.len(), |index| {
            let mut pack_of_one = packs[index].lock().unwrap_or_else(PoisonError::into_inner);
            let (rows, panels) = &mut *pack_of_one;
            self.tiling.pack_rows(self.a, rows.clone(), self.depths.clone(), panels);
        });

        let min_tasks = if threads == Threads::Pool { 2 * rayon::current_num_threads() } else { 1 };
        let n: usize = self.products.iter().map(|(_, b)| b.cols).sum();
        let step = task_columns(n, min_tasks.div_ceil(rows.len().div_ceil(MIN_BAND_PANELS * T::ROWS)), T::TASK_COLUMNS);
        let columns: Vec<_> = self
            .products
            .iter()
            .flat_map(|product| blocks(0..product.1.cols, step).map(move |columns| (product, columns)))
            .collect();
        let step = rows.len().div_ceil(min_tasks.div_ceil(columns.len()));
        let step = step.max(MIN_BAND_PANELS * T::ROWS).next_multiple_of(T::ROWS);
        let bands: Vec<_> = blocks(rows.clone(), step).zip(packed.chunks(step / T::ROWS * panel)).collect();
        threads.for_each(bands.len() * columns.len(), |index| {
            let (rows, packed_a) = &bands[index / columns.len()];
            let (product, columns) = &columns[index % columns.len()];
            self.tiles(product, rows.clone(), packed_a, columns.clone());
        });
    }

    /// Packs some columns of `B` and multiplies them with packed rows of `A`.
    fn tiles(
        &self,
        (out, b): &(SharedMat<'_>, Mat<'_, W>),
        rows: Range<usize>,
        packed_a: &[T::Packed],
        columns: Range<usize>,
    ) {
        let depth = self.depths.len();
        let mut buffer = Buffer::new();
        let panels = buffer.elements(T::block_len(depth));
        let mut rest = columns;
        while !rest.is_empty() {
            let (columns, packed_b) = self.tiling.pack_columns(*b, rest.clone(), self.depths.clone(), panels);
            rest.start = columns.end;
            let rows = rows.clone();
            self.tiling.multiply(Tiles { out, accumulate: self.accumulate, depth, rows, columns, packed_a, packed_b });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn numbers(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0).collect()
    }

    #[test]
    fn strided_and_transposed_operands_are_multiplied() {
        for (m, k, n) in [(1, 1, 1), (3, 5, 2), (17, 9, 33), (1, 40, 7), (29, 1600, 130), (200, 7, 250), (64, 900, 37)]
        {
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
            assert!(m == 1 || out[n] == 1.0, "elements between rows are not touched");
        }
    }

    #[test]
    fn unpacked_weights_give_the_bits_of_packed_ones() {
        for (m, k, n) in [(1, 1, 1), (3, 5, 2), (17, 9, 33), (32, 40, 6), (65, 1600, 50), (100, 70, 131)] {
            let (a, w) = (numbers(m * (k + 3)), numbers(2 * n * (k + 1)));
            let (first, second) = w.split_at(n * (k + 1));
            let a = Mat::strided(&a, m, k, k + 3);
            let [first, second] = [first, second].map(|w| Mat::strided(w, n, k, k + 1));
            for accumulate in [false, true] {
                let mut expected = vec![2.0; 2 * m * n];
                for (out, w) in expected.chunks_exact_mut(m * n).zip([first, second]) {
                    gemms_tiled(Float32, vec![(MatMut::new(out, m, n), w.t())], accumulate, a, Threads::One);
                }
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
    fn few_columns_are_cut_into_more_tasks_for_more_threads() {
        for (n, min_tasks, expected) in [(3072, 1, 288), (576, 2, 288), (576, 4, 128), (576, 32, 96), (64, 9, 96)] {
            assert_eq!(task_columns(n, min_tasks, 288), expected, "{n} columns in {min_tasks} tasks");
        }
        assert_eq!(task_columns(576, 1, 96), 96);
    }

    #[test]
    fn an_empty_inner_axis_sums_to_zero() {
        let mut out = vec![7.0; 6];
        gemm(MatMut::new(&mut out, 2, 3), false, Mat::new(&[], 2, 0), Mat::<f32>::new(&[], 0, 3), Threads::One);
        assert_eq!(out, [0.0; 6]);
        gemm(MatMut::new(&mut out, 2, 3), true, Mat::new(&[], 2, 0), Mat::<f32>::new(&[], 0, 3), Threads::One);
        assert_eq!(out, [0.0; 6]);
    }
}
