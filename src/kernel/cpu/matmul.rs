//! `y = x·Wᵀ` with `W` stored `[n, k]`, in f32, f16, bf16 or quantized blocks.
//!
//! - Few rows of `x` (decoding, small experts): the weights are streamed once past all rows of `x`, in the time that it takes
//!   to read them.
//! - Up to [`max_unpacked_rows`]: GEMM that reads float32 weights in place.
//! - More rows: GEMM of packed operands. Half precision is widened while packing, never as a whole matrix.

use std::ops::Range;

use burn::tensor::DType;

use super::CHUNK;
use super::gemm::{gated_gemm, gated_gemm_bfloat16, gemm, gemms, gemms_bfloat16, gemms_unpacked, max_unpacked_rows};
use super::gemv::{STREAMED_ROWS, dot_rows};
use super::mat::{Mat, MatMut, SharedMat};
use super::math::silu_times;
use super::matrix::Matrix;
use super::quantized::{QuantizedRows, multiply};
use super::scratch::Scratch;
use super::spin_pool::Threads;
use super::weight_rows::WeightRows;
use super::weight_stream::for_each_row_block;

/// Rows of `x` up to which half precision is streamed: the alternative is packed GEMM. Measured with AVX2 and AVX-512, as is
/// [`STREAMED_ROWS`].
const STREAMED_ROWS_HALF: usize = 48;

/// `out[m, n] = x[m, k]·w[n, k]ᵀ`.
pub(in crate::kernel) fn matmul_nt(x: &[f32], w: WeightRows<'_>, out: &mut [f32], k: usize, threads: Threads) {
    products(x, k, vec![(Matrix::Rows(w), out)], false, threads);
}

/// `out[m, k] = x[m, n]·w[n, k]`, or `out += x·w` if `accumulate`: the gradient of the input of [`matmul_nt`].
pub(in crate::kernel) fn matmul_nn(x: Mat<'_>, w: WeightRows<'_>, out: MatMut<'_>, accumulate: bool, threads: Threads) {
    let (n, k) = (x.cols, out.cols);
    match w {
        WeightRows::F32(w) => gemm(out, accumulate, x, Mat::new(w, n, k), threads),
        WeightRows::F16(w) => gemm(out, accumulate, x, Mat::new(w, n, k), threads),
        WeightRows::Bf16(w) => gemms_bfloat16(vec![(out, Mat::new(w, n, k))], accumulate, x, threads),
    }
}

/// `out[n, k] = grad[m, n]ᵀ·x[m, k]`, or `out += gradᵀ·x` if `accumulate`: the gradient of a weight that [`matmul_nt`] reads
/// in `dtype`.
pub(in crate::kernel) fn matmul_tn(
    grad: Mat<'_>,
    x: Mat<'_>,
    out: MatMut<'_>,
    dtype: DType,
    accumulate: bool,
    threads: Threads,
) {
    match dtype {
        DType::BF16 => gemms_bfloat16(vec![(out, x)], accumulate, grad.t(), threads),
        _ => gemm(out, accumulate, grad.t(), x, threads),
    }
}

/// A weight matrix and the output of its product with `x`.
pub(in crate::kernel) type Product<'a> = (Matrix<'a>, &'a mut [f32]);

/// Whether this matrix is streamed past `m` rows of `x`.
fn is_streamed(w: Matrix<'_>, m: usize) -> bool {
    match w {
        Matrix::Quantized(_) => true,
        Matrix::Rows(WeightRows::F32(_)) => m <= STREAMED_ROWS,
        Matrix::Rows(WeightRows::F16(_) | WeightRows::Bf16(_)) => m <= STREAMED_ROWS_HALF,
    }
}

/// Rows of activations, also rounded to 8 bits if a matrix is quantized.
struct Activations<'a> {
    x: &'a [f32],
    k: usize,
    quantized: Option<QuantizedRows>,
}

impl<'a> Activations<'a> {
    fn new<'b>(x: &'a [f32], k: usize, mut matrices: impl Iterator<Item = &'b Matrix<'b>>) -> Self {
        let any_quantized = matrices.any(|w| matches!(w, Matrix::Quantized(_)));
        Self { x, k, quantized: any_quantized.then(|| QuantizedRows::round(x, k)) }
    }

    /// `out[m, rows] = x·w[rows]ᵀ`.
    fn times(&self, w: Matrix<'_>, rows: Range<usize>, out: &mut [f32]) {
        match (w, &self.quantized) {
            (Matrix::Rows(w), _) => dot_rows(self.x, w.rows(rows, self.k), out, self.k),
            (Matrix::Quantized(w), Some(x)) => multiply(x, w, rows, out),
            (Matrix::Quantized(_), None) => unreachable!("activations were rounded for this matrix"),
        }
    }
}

/// `out = x·wᵀ` for each product, or `out += x·wᵀ` if `accumulate`. All streamed products share one parallel loop.
pub(in crate::kernel) fn products(x: &[f32], k: usize, products: Vec<Product<'_>>, accumulate: bool, threads: Threads) {
    let m = x.len() / k;
    for (w, out) in &products {
        assert_eq!((x.len(), Some(out.len())), (m * k, w.rows(k).map(|n| m * n)), "sizes of x·wᵀ");
    }
    if m == 0 {
        return;
    }
    let (streamed, tiled): (Vec<_>, Vec<_>) = products.into_iter().partition(|(w, _)| is_streamed(*w, m));
    by_gemm(x, k, tiled, accumulate, threads);
    let x = Activations::new(x, k, streamed.iter().map(|(w, _)| w));
    let targets: Vec<_> = streamed.into_iter().map(|(w, out)| (w, rows_of(out, m))).collect();
    let matrices: Vec<_> = targets.iter().map(|(w, _)| *w).collect();
    for_each_row_block([m, k], &matrices, None, threads, |index, rows| {
        let (w, target) = &targets[index];
        let mut block = Scratch::new(m * rows.len());
        x.times(*w, rows.clone(), &mut block);
        write(target, rows, &block, accumulate);
    });
}

/// `out[m, n] = silu(x·gateᵀ) ∘ (x·upᵀ)`, the hidden layer of a gated MLP.
pub(in crate::kernel) fn gated(x: &[f32], k: usize, [gate, up]: [Matrix<'_>; 2], out: &mut [f32], threads: Threads) {
    let m = x.len() / k;
    assert_eq!((x.len(), gate.rows(k)), (m * k, up.rows(k)), "sizes of a gate");
    assert_eq!(Some(out.len()), gate.rows(k).map(|n| m * n), "sizes of a hidden state");
    if m == 0 {
        return;
    }
    if ![gate, up].iter().all(|w| is_streamed(*w, m)) {
        return gated_by_gemm(x, k, [gate, up], out, threads);
    }
    let x = Activations::new(x, k, [&gate, &up].into_iter());
    let target = rows_of(out, m);
    for_each_row_block([m, k], &[gate], Some(up), threads, |_, rows| {
        let mut blocks = Scratch::new(2 * m * rows.len());
        let (hidden, factor) = blocks.split_at_mut(m * rows.len());
        x.times(gate, rows.clone(), hidden);
        x.times(up, rows.clone(), factor);
        silu_times(hidden, factor);
        write(&target, rows, hidden, false);
    });
}

/// [`gated`], unless both matrices are streamed. Matrices of one type that GEMM packs are multiplied there.
#[expect(unsafe_code, reason = "the tasks of a loop write to distinct parts")]
fn gated_by_gemm(x: &[f32], k: usize, [gate, up]: [Matrix<'_>; 2], out: &mut [f32], threads: Threads) {
    let m = x.len() / k;
    let (a, n) = (Mat::new(x, m, k), out.len() / m);
    match (gate, up) {
        (Matrix::Rows(WeightRows::F32(gate)), Matrix::Rows(WeightRows::F32(up))) if m > max_unpacked_rows() => {
            gated_gemm(MatMut::new(out, m, n), a, [gate, up].map(|w| Mat::new(w, n, k).t()), threads);
        }
        (Matrix::Rows(WeightRows::F16(gate)), Matrix::Rows(WeightRows::F16(up))) => {
            gated_gemm(MatMut::new(out, m, n), a, [gate, up].map(|w| Mat::new(w, n, k).t()), threads);
        }
        (Matrix::Rows(WeightRows::Bf16(gate)), Matrix::Rows(WeightRows::Bf16(up))) => {
            gated_gemm_bfloat16(MatMut::new(out, m, n), a, [gate, up].map(|w| Mat::new(w, n, k).t()), threads);
        }
        _ => {
            let mut factor = Scratch::new(out.len());
            products(x, k, vec![(gate, &mut *out), (up, &mut factor)], false, threads);
            let len = out.len();
            let target = SharedMat::new(MatMut::new(out, 1, len));
            threads.for_each(len.div_ceil(CHUNK), |index| {
                let part = index * CHUNK..((index + 1) * CHUNK).min(len);
                // SAFETY: the parts are distinct.
                silu_times(unsafe { target.row(0, part.clone()) }, &factor[part]);
            });
        }
    }
}

/// The `m` output rows that the tasks of [`for_each_row_block`] write to.
fn rows_of(out: &mut [f32], m: usize) -> SharedMat<'_> {
    let n = out.len() / m;
    SharedMat::new(MatMut::new(out, m, n))
}

/// Writes or adds the output of a task of [`for_each_row_block`].
#[expect(unsafe_code, reason = "the tasks of a loop write to distinct columns")]
fn write(target: &SharedMat<'_>, rows: Range<usize>, block: &[f32], accumulate: bool) {
    // SAFETY: `for_each_row_block` hands out each row of a matrix once, and it is a column of the target.
    unsafe { if accumulate { target.add(rows, block) } else { target.write(rows, block) } };
}

/// Products with float weights by GEMM, one call per element type.
fn by_gemm(x: &[f32], k: usize, products: Vec<Product<'_>>, accumulate: bool, threads: Threads) {
    let m = x.len() / k;
    let (mut f32s, mut f16s, mut bf16s) = (Vec::new(), Vec::new(), Vec::new());
    for (w, out) in products {
        let n = out.len() / m;
        let out = MatMut::new(out, m, n);
        match w {
            Matrix::Rows(WeightRows::F32(w)) => f32s.push((out, Mat::new(w, n, k))),
            Matrix::Rows(WeightRows::F16(w)) => f16s.push((out, Mat::new(w, n, k).t())),
            Matrix::Rows(WeightRows::Bf16(w)) => bf16s.push((out, Mat::new(w, n, k).t())),
            Matrix::Quantized(_) => unreachable!("quantized weights are always streamed"),
        }
    }
    let x = Mat::new(x, m, k);
    if m <= max_unpacked_rows() {
        gemms_unpacked(f32s, accumulate, x, threads);
    } else {
        let transposed = f32s.into_iter().map(|(out, w)| (out, w.t())).collect();
        gemms(transposed, accumulate, x, threads);
    }
    gemms(f16s, accumulate, x, threads);
    gemms_bfloat16(bf16s, accumulate, x, threads);
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    fn numbers(n: usize, salt: usize) -> Vec<f32> {
        // Exact in bfloat16, to which activations may be rounded.
        (0..n).map(|i| ((i * 37 + salt * 11) % 101) as f32 / 64.0 - 0.75).collect()
    }

    fn plain(x: &[f32], w: &[f32], k: usize) -> Vec<f64> {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        x.chunks_exact(k).flat_map(|x| w.chunks_exact(k).map(move |w| dot(x, w))).collect()
    }

    #[test]
    fn every_path_computes_x_times_w_transposed() {
        for (m, n, k) in [
            (1, 1, 1),
            (1, 70, 33),
            (4, 5, 64),
            (5, 130, 31),
            (12, 3, 96),
            (13, 9, 17),
            (40, 300, 50),
            (70, 33, 40),
            (260, 20, 33),
        ] {
            let (x, w) = (numbers(m * k, 1), numbers(n * k, 2));
            let narrow: Vec<bf16> = w.iter().map(|v| bf16::from_f32(*v)).collect();
            let half: Vec<f16> = w.iter().map(|v| f16::from_f32(*v)).collect();
            let widened = |w: &[f32]| plain(&x, w, k);
            let cases = [
                (WeightRows::F32(&w), widened(&w)),
                (WeightRows::Bf16(&narrow), widened(&narrow.iter().map(|v| v.to_f32()).collect::<Vec<_>>())),
                (WeightRows::F16(&half), widened(&half.iter().map(|v| v.to_f32()).collect::<Vec<_>>())),
            ];
            for (rows, expected) in cases {
                for threads in [Threads::One, Threads::Pool] {
                    let mut out = vec![0.0; m * n];
                    matmul_nt(&x, rows, &mut out, k, threads);
                    for (found, expected) in out.iter().zip(&expected) {
                        assert!((f64::from(*found) - expected).abs() < 1e-4, "{m}×{n}×{k}: {found} {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_gate_has_the_bits_of_its_two_products() {
        // More rows than are packed at once; a longer inner axis than that of a block; more columns than those of a task.
        for (m, n, k) in [(1, 70, 33), (13, 9, 17), (70, 33, 40), (300, 310, 90), (1600, 40, 800)] {
            let x = numbers(m * k, 1);
            // In thirds, a weight has more than one bfloat16 part.
            for divisors in [[1.0, 1.0], [1.0, 3.0], [3.0, 1.0], [3.0, 3.0]] {
                let wide = divisors.map(|by| numbers(n * k, by as usize).iter().map(|v| v / by).collect::<Vec<f32>>());
                let narrow = wide.each_ref().map(|w| w.iter().map(|v| bf16::from_f32(*v)).collect::<Vec<_>>());
                let half = wide.each_ref().map(|w| w.iter().map(|v| f16::from_f32(*v)).collect::<Vec<_>>());
                for weights in [
                    wide.each_ref().map(|w| WeightRows::F32(w)),
                    narrow.each_ref().map(|w| WeightRows::Bf16(w)),
                    half.each_ref().map(|w| WeightRows::F16(w)),
                ] {
                    let weights = weights.map(Matrix::Rows);
                    let [mut expected, mut found] = weights.map(|w| {
                        let mut out = vec![f32::NAN; m * n];
                        products(&x, k, vec![(w, &mut out)], false, Threads::Pool);
                        out
                    });
                    silu_times(&mut expected, &found);
                    for threads in [Threads::One, Threads::Pool] {
                        found.fill(f32::NAN);
                        gated(&x, k, weights, &mut found, threads);
                        assert_eq!(found, expected, "{m}×{n}×{k}, weights divided by {divisors:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_in_a_batch() {
        let (n, k) = (77, 83);
        let (x, w) = (numbers(STREAMED_ROWS * k, 3), numbers(n * k, 4));
        let mut together = vec![0.0; STREAMED_ROWS * n];
        matmul_nt(&x, WeightRows::F32(&w), &mut together, k, Threads::Pool);
        for (x, together) in x.chunks_exact(k).zip(together.chunks_exact(n)) {
            let mut alone = vec![0.0; n];
            matmul_nt(x, WeightRows::F32(&w), &mut alone, k, Threads::One);
            assert_eq!(alone, together);
        }
    }
}
