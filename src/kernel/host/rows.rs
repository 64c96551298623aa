//! `y = x·Wᵀ` with `W` kept `[out, in]` as checkpoints store it, in f32, f16 or bf16.
//!
//! Few rows of `x` (decoding, small experts): every weight is read once and multiplied with all rows of `x`
//! while it is in a register, so that the time is that of streaming `W`. Many rows: GEMM; half-precision
//! weights are widened a panel at a time, never the whole matrix.

use burn::backend::flex::FlexTensor;
use burn::tensor::DType;
use half::{bf16, f16};
use rayon::prelude::*;

use super::{Mat, MatMut, Threads, dots, gemm, vectorized};

/// Rows of `x` up to which streaming the weights beats GEMM.
const FEW_ROWS: usize = 12;
/// Rows of half-precision `W` widened at a time.
const PANEL: usize = 128;
/// Bytes of `W` that one task streams.
const TASK_BYTES: usize = 96 * 1024;

/// A number that weights are stored in.
trait Widen: bytemuck::Pod + Send + Sync {
    fn widen(self) -> f32;
}

impl Widen for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Widen for bf16 {
    // Not `to_f32`, whose branch for NaN keeps the loop from vectorizing.
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl Widen for f16 {
    // Not `to_f32`, whose branches and CPU detection keep the loop from vectorizing: shift the fields into place and
    // let one exact product move the exponent's bias, subnormals included; infinity and NaN keep their exponent.
    #[inline(always)]
    fn widen(self) -> f32 {
        const BIAS: f32 = f32::from_bits((127 + 127 - 15) << 23);
        let bits = u32::from(self.to_bits());
        let magnitude = (bits & 0x7fff) << 13;
        let finite = (f32::from_bits(magnitude) * BIAS).to_bits();
        let wide = if magnitude >= 0x7c00 << 13 { magnitude | 0x7f80_0000 } else { finite };
        f32::from_bits(wide | (bits & 0x8000) << 16)
    }
}

/// Rows of a weight matrix in whatever type the checkpoint keeps them.
#[derive(Clone, Copy)]
pub(in crate::kernel) enum WeightRows<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
}

impl<'a> WeightRows<'a> {
    /// All elements of a contiguous weight tensor.
    ///
    /// # Panics
    /// If it is strided or not a float of at most 32 bits.
    pub(in crate::kernel) fn of(weight: &'a FlexTensor) -> Self {
        let contiguous = "weights are contiguous";
        match weight.dtype() {
            DType::F32 => Self::F32(weight.as_slice().expect(contiguous)),
            DType::F16 => Self::F16(weight.as_slice().expect(contiguous)),
            DType::BF16 => Self::Bf16(weight.as_slice().expect(contiguous)),
            other => panic!("weights are f32, f16 or bf16, got {other:?}"),
        }
    }

    /// The elements from `start`, `len` of them.
    pub(in crate::kernel) fn slice(self, start: usize, len: usize) -> Self {
        match self {
            Self::F32(w) => Self::F32(&w[start..start + len]),
            Self::F16(w) => Self::F16(&w[start..start + len]),
            Self::Bf16(w) => Self::Bf16(&w[start..start + len]),
        }
    }
}

impl WeightRows<'_> {
    /// The elements as f32.
    ///
    /// # Panics
    /// If `out` has another length.
    pub(in crate::kernel) fn widen_into(self, out: &mut [f32]) {
        match self {
            Self::F32(w) => out.copy_from_slice(w),
            Self::F16(w) => widen(w, out),
            Self::Bf16(w) => widen(w, out),
        }
    }
}

fn widen<W: Widen>(narrow: &[W], out: &mut [f32]) {
    assert_eq!(narrow.len(), out.len(), "a widened slice keeps its length");
    vectorized!(out.iter_mut().zip(narrow).for_each(|(wide, narrow)| *wide = narrow.widen()));
}

/// `out[m, n] = x[m, k] · w[n, k]ᵀ`.
pub(in crate::kernel) fn matmul_nt(x: &[f32], w: WeightRows<'_>, out: &mut [f32], k: usize, threads: Threads) {
    match w {
        WeightRows::F32(w) => typed(x, w, out, k, threads),
        WeightRows::F16(w) => typed(x, w, out, k, threads),
        WeightRows::Bf16(w) => typed(x, w, out, k, threads),
    }
}

fn typed<W: Widen>(x: &[f32], w: &[W], out: &mut [f32], k: usize, threads: Threads) {
    let (m, n) = (x.len() / k, w.len() / k);
    assert_eq!((x.len(), w.len(), out.len()), (m * k, n * k, m * n), "sizes of x·wᵀ");
    if m <= FEW_ROWS {
        stream_weights(x, w, out, k, threads);
    } else if let Ok(w) = bytemuck::try_cast_slice::<W, f32>(w)
        && size_of::<W>() == size_of::<f32>()
    {
        gemm(MatMut::new(out, m, n), false, Mat::new(x, m, k), Mat::new(w, n, k).t(), threads);
    } else {
        widen_panels(x, w, out, k, threads);
    }
}

/// Each task takes some rows of `w` and all rows of `x`; the outputs are gathered transposed.
fn stream_weights<W: Widen>(x: &[f32], w: &[W], out: &mut [f32], k: usize, threads: Threads) {
    let (m, n) = (x.len() / k, w.len() / k);
    let rows = (TASK_BYTES / (k * size_of::<W>())).clamp(1, n.max(1));
    let task = |(out, w): (&mut [f32], &[W])| dot_rows(x, w, out, k);
    let mut transposed = vec![0.0; if m == 1 { 0 } else { m * n }];
    let target: &mut [f32] = if m == 1 { out } else { &mut transposed };
    if threads == Threads::One || n <= rows {
        target.chunks_mut(rows * m).zip(w.chunks(rows * k)).for_each(task);
    } else {
        target.par_chunks_mut(rows * m).zip(w.par_chunks(rows * k)).for_each(task);
    }
    if m > 1 {
        for (j, column) in transposed.chunks_exact(m).enumerate() {
            for (i, value) in column.iter().enumerate() {
                out[i * n + j] = *value;
            }
        }
    }
}

/// `out[j, i] = w_j · x_i`. A product is summed in the same order however many rows `x` has, so that batched
/// decoding gives the bits of single decoding.
fn dot_rows<W: Widen>(x: &[f32], w: &[W], out: &mut [f32], k: usize) {
    let m = x.len() / k;
    let mut scratch = vec![0.0f32; if size_of::<W>() == size_of::<f32>() { 0 } else { k }];
    for (w, out) in w.chunks_exact(k).zip(out.chunks_exact_mut(m)) {
        let w: &[f32] = match bytemuck::try_cast_slice(w) {
            Ok(wide) if size_of::<W>() == size_of::<f32>() => wide,
            _ => {
                widen(w, &mut scratch);
                &scratch
            }
        };
        let (fours, rest) = out.as_chunks_mut::<4>();
        let (x_fours, x_rest) = x.split_at(fours.len() * 4 * k);
        for (out, x) in fours.iter_mut().zip(x_fours.chunks_exact(4 * k)) {
            *out = dots::<4>(x, w);
        }
        for (out, x) in rest.iter_mut().zip(x_rest.chunks_exact(k)) {
            [*out] = dots::<1>(x, w);
        }
    }
}

/// Widens `PANEL` rows of `w` at a time into a scratch matrix of the task, and multiplies by GEMM.
fn widen_panels<W: Widen>(x: &[f32], w: &[W], out: &mut [f32], k: usize, threads: Threads) {
    let (m, n) = (x.len() / k, w.len() / k);
    let mut scratch = vec![0.0f32; PANEL.min(n) * k];
    for (index, panel) in w.chunks(PANEL * k).enumerate() {
        let wide = &mut scratch[..panel.len()];
        widen(panel, wide);
        let rows = panel.len() / k;
        let columns = &mut out[index * PANEL..];
        gemm(MatMut::strided(columns, m, rows, n), false, Mat::new(x, m, k), Mat::new(wide, rows, k).t(), threads);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, salt: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 + salt * 11) % 101) as f32 / 50.0 - 1.0).collect()
    }

    fn plain(x: &[f32], w: &[f32], k: usize) -> Vec<f64> {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        x.chunks_exact(k).flat_map(|x| w.chunks_exact(k).map(move |w| dot(x, w))).collect()
    }

    #[test]
    fn every_path_gives_the_dot_products_of_rows_with_rows() {
        for (m, n, k) in [(1, 1, 1), (1, 70, 33), (4, 5, 64), (5, 130, 31), (12, 3, 96), (13, 9, 17), (40, 300, 50)] {
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
    fn every_half_precision_number_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let (brain, half) = (bf16::from_bits(bits), f16::from_bits(bits));
            assert!(brain.widen() == brain.to_f32() || brain.is_nan() && brain.widen().is_nan(), "{bits:#x}");
            assert!(half.widen() == half.to_f32() || half.is_nan() && half.widen().is_nan(), "{bits:#x}");
        }
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_in_a_small_batch() {
        let (n, k) = (77, 83);
        let (x, w) = (numbers(7 * k, 3), numbers(n * k, 4));
        let mut together = vec![0.0; 7 * n];
        matmul_nt(&x, WeightRows::F32(&w), &mut together, k, Threads::Pool);
        for (x, together) in x.chunks_exact(k).zip(together.chunks_exact(n)) {
            let mut alone = vec![0.0; n];
            matmul_nt(x, WeightRows::F32(&w), &mut alone, k, Threads::One);
            assert_eq!(alone, together);
        }
    }
}
