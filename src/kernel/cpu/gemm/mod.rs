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
mod depth_block;
mod float32;
mod panel_product;
mod panels;
mod tile;
mod tiling;
mod unpacked;

use super::mat::{Mat, MatMut, SharedMat};
use super::scratch::Scratch;
use super::spin_pool::Threads;
use super::weight_rows::Widen;
use depth_block::{DepthBlock, Product};
use float32::Float32;
pub(in crate::kernel) use panel_product::{PANEL_WIDTH, PanelRow, panel_product};
pub(in crate::kernel) use panels::pack;
use tiling::{Tiling, blocks};
pub(in crate::kernel) use unpacked::gemms_unpacked;

/// Depth of a packed block (`kc`): the panels of a tile fit in L2.
const DEPTH: usize = 768;
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
    in_float32(sums(products), accumulate, a, threads);
}

/// [`gemms`] for products that may round to bfloat16: by the CPU's matrix instructions if it has any, which round both
/// operands, else without rounding.
pub(in crate::kernel) fn gemms_bfloat16<W: Widen>(
    products: Vec<(MatMut<'_>, Mat<'_, W>)>,
    accumulate: bool,
    a: Mat<'_>,
    threads: Threads,
) {
    in_bfloat16(sums(products), accumulate, a, threads);
}

/// `out = silu(a·gate) ∘ (a·up)`, with the products of [`gemms`]. The second one stays in cache if the inner axis is not longer
/// than [`DEPTH`].
pub(in crate::kernel) fn gated_gemm<W: Widen>(
    out: MatMut<'_>,
    a: Mat<'_>,
    [gate, up]: [Mat<'_, W>; 2],
    threads: Threads,
) {
    let mut factor = factor(&out, a);
    in_float32(vec![gated(out, [gate, up], factor.as_deref_mut())], false, a, threads);
}

/// [`gated_gemm`] with the products of [`gemms_bfloat16`].
pub(in crate::kernel) fn gated_gemm_bfloat16<W: Widen>(
    out: MatMut<'_>,
    a: Mat<'_>,
    [gate, up]: [Mat<'_, W>; 2],
    threads: Threads,
) {
    let mut factor = factor(&out, a);
    in_bfloat16(vec![gated(out, [gate, up], factor.as_deref_mut())], false, a, threads);
}

fn sums<'a, W>(products: Vec<(MatMut<'a>, Mat<'a, W>)>) -> Vec<Product<'a, W>> {
    products.into_iter().map(|(out, b)| Product::Sum { out: SharedMat::new(out), b }).collect()
}

/// Room for the second factor of a gated product between two blocks of the inner axis.
fn factor(out: &MatMut<'_>, a: Mat<'_>) -> Option<Scratch> {
    (a.cols > DEPTH).then(|| Scratch::new(out.rows * out.cols))
}

fn gated<'a, W>(out: MatMut<'a>, [gate, up]: [Mat<'a, W>; 2], factor: Option<&'a mut [f32]>) -> Product<'a, W> {
    let factor = factor.map(|factor| SharedMat::new(MatMut::new(factor, out.rows, out.cols)));
    Product::Gated { out: SharedMat::new(out), gate, up, factor }
}

/// Some products, none of them rounded.
fn in_float32<W: Widen>(products: Vec<Product<'_, W>>, accumulate: bool, a: Mat<'_>, threads: Threads) {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if a.rows >= MIN_SPLIT_ROWS
        && let Some(amx) = amx::Split::detect()
    {
        return tiled(amx, products, accumulate, a, threads);
    }
    tiled(Float32, products, accumulate, a, threads);
}

/// Some products that may be rounded.
fn in_bfloat16<W: Widen>(products: Vec<Product<'_, W>>, accumulate: bool, a: Mat<'_>, threads: Threads) {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if let Some(amx) = amx::Rounded::detect() {
        return tiled(amx, products, accumulate, a, threads);
    }
    in_float32(products, accumulate, a, threads);
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

/// Some products by one tiling.
fn tiled<T: Tiling, W: Widen>(
    tiling: T,
    products: Vec<Product<'_, W>>,
    accumulate: bool,
    a: Mat<'_>,
    threads: Threads,
) {
    let (m, k) = (a.rows, a.cols);
    products.iter().for_each(|product| product.assert_sizes(m, k));
    if k == 0 && !accumulate {
        products.iter().for_each(Product::fill_with_zeros);
    }
    let n: usize = products.iter().map(Product::columns).sum();
    if m == 0 || k == 0 || n == 0 {
        return;
    }
    let threads = if m.saturating_mul(n).saturating_mul(k) < MIN_PARALLEL_WORK { Threads::One } else { threads };
    for depths in blocks(0..k, k.div_ceil(k.div_ceil(DEPTH))) {
        let block = DepthBlock { tiling, products: &products, accumulate: accumulate || depths.start > 0, a, depths };
        for rows in blocks(0..m, T::BLOCK_ROWS) {
            block.rows(&rows, threads);
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
                    tiled(Float32, sums(vec![(MatMut::new(out, m, n), w.t())]), accumulate, a, Threads::One);
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
    fn an_empty_inner_axis_sums_to_zero() {
        let mut out = vec![7.0; 6];
        gemm(MatMut::new(&mut out, 2, 3), false, Mat::new(&[], 2, 0), Mat::<f32>::new(&[], 0, 3), Threads::One);
        assert_eq!(out, [0.0; 6]);
        gemm(MatMut::new(&mut out, 2, 3), true, Mat::new(&[], 2, 0), Mat::<f32>::new(&[], 0, 3), Threads::One);
        assert_eq!(out, [0.0; 6]);
    }
}
