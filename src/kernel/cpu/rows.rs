//! `y = x·Wᵀ` with `W` kept `[out, in]` as checkpoints store it, in f32, f16 or bf16, or in blocks of integers.
//!
//! Few rows of `x` (decoding, small experts): weights are streamed, and multiplied with all rows of `x` while they are in a
//! register or in the first cache, so that the time is that of streaming `W`. More rows: tiles in registers, of weights
//! where they lie. Many rows: GEMM of packed operands; half-precision weights are widened as they are packed, never the
//! whole matrix.

use std::ops::Range;

use super::lanes::{Lanes, WithLanes, with_lanes};
use super::quantized::{QuantizedMatrix, QuantizedRows, multiply};
use super::scratch::Scratch;
use super::streams::in_rows;
use super::weight_rows::{WeightRows, Widen};
use super::{CHUNK, Mat, MatMut, PREFETCH_BYTES, SharedMat, Threads, gemms, gemms_unpacked, silu, vectorized};

/// Rows of `x` up to which rows of floats are streamed. This and the next two were measured with AVX2 and with AVX-512.
const FEW_ROWS: usize = 24;
/// The same of half precision: what comes after is GEMM, which packs.
const FEW_ROWS_OF_HALVES: usize = 48;
/// Rows of `x` from which on packing the weights pays.
const MANY_ROWS: usize = 256;
/// Of weights that are to stay in the first cache, beside some rows of `x`.
const FIRST_CACHE_BYTES: usize = 8 * 1024;

/// `out[m, n] = x[m, k] · w[n, k]ᵀ`.
pub(in crate::kernel) fn matmul_nt(x: &[f32], w: WeightRows<'_>, out: &mut [f32], k: usize, threads: Threads) {
    products(x, k, vec![(Matrix::Rows(w), out)], false, threads);
}

/// A weight matrix as it lies in memory.
#[derive(Clone, Copy)]
pub(in crate::kernel) enum Matrix<'a> {
    /// Rows of floats.
    Rows(WeightRows<'a>),
    /// Blocks of integers.
    Quantized(&'a QuantizedMatrix),
}

impl Matrix<'_> {
    /// Rows, if a row has `k` elements; `None` if it has not.
    pub(in crate::kernel) fn rows(self, k: usize) -> Option<usize> {
        match self {
            Self::Rows(w) => w.len().is_multiple_of(k).then(|| w.len() / k),
            Self::Quantized(w) => Some(w.dims()).filter(|dims| dims[1] == k).map(|dims| dims[0]),
        }
    }

    /// Whether this is streamed past so many rows of `x`.
    fn is_streamed(self, m: usize) -> bool {
        match self {
            Self::Quantized(_) => true,
            Self::Rows(WeightRows::F32(_)) => m <= FEW_ROWS,
            Self::Rows(WeightRows::F16(_) | WeightRows::Bf16(_)) => m <= FEW_ROWS_OF_HALVES,
        }
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.addresses().len()
    }

    /// Where it lies.
    pub(super) fn addresses(&self) -> Range<usize> {
        let range = match self {
            Self::Rows(w) => w.as_ptr_range(),
            Self::Quantized(w) => w.as_ptr_range(),
        };
        range.start.addr()..range.end.addr()
    }
}

/// A matrix that `x` is multiplied with, and where the result goes.
pub(in crate::kernel) type Product<'a> = (Matrix<'a>, &'a mut [f32]);

/// Rows of activations, in each form that a matrix wants them in.
struct Activations<'a> {
    x: &'a [f32],
    k: usize,
    quantized: Option<QuantizedRows>,
}

impl<'a> Activations<'a> {
    fn new<'b>(x: &'a [f32], k: usize, mut matrices: impl Iterator<Item = &'b Matrix<'b>>) -> Self {
        let wanted = matrices.any(|w| matches!(w, Matrix::Quantized(_)));
        Self { x, k, quantized: wanted.then(|| QuantizedRows::round(x, k)) }
    }

    /// `out = x · w[rows]ᵀ`, a row of `x` behind the other.
    fn times(&self, w: Matrix<'_>, rows: Range<usize>, out: &mut [f32]) {
        match (w, &self.quantized) {
            (Matrix::Rows(w), _) => dot_rows(self.x, w.rows(rows, self.k), out, self.k),
            (Matrix::Quantized(w), Some(x)) => multiply(x, w, rows, out),
            (Matrix::Quantized(_), None) => unreachable!("activations were rounded for this matrix"),
        }
    }
}

/// The same for several matrices at once, in a single loop but for rows of floats that many rows of `x` want by GEMM;
/// `out += x·wᵀ` if `accumulate`.
pub(in crate::kernel) fn products(x: &[f32], k: usize, products: Vec<Product<'_>>, accumulate: bool, threads: Threads) {
    let m = x.len() / k;
    for (w, out) in &products {
        assert_eq!((x.len(), Some(out.len())), (m * k, w.rows(k).map(|n| m * n)), "sizes of x·wᵀ");
    }
    if m == 0 {
        return;
    }
    let (streamed, tiled): (Vec<_>, Vec<_>) = products.into_iter().partition(|(w, _)| w.is_streamed(m));
    in_tiles(x, k, tiled, accumulate, threads);
    let x = Activations::new(x, k, streamed.iter().map(|(w, _)| w));
    let targets: Vec<_> = streamed.into_iter().map(|(w, out)| (w, rows_of(out, m))).collect();
    let matrices: Vec<_> = targets.iter().map(|(w, _)| *w).collect();
    in_rows([m, k], &matrices, None, threads, |index, rows| {
        let (w, target) = &targets[index];
        let mut block = Scratch::new(m * rows.len());
        x.times(*w, rows.clone(), &mut block);
        put(target, rows, &block, accumulate);
    });
}

/// `out[m, n] = silu(x·gateᵀ) ∘ (x·upᵀ)`, the hidden state of a gated MLP.
#[expect(unsafe_code, reason = "the tasks of a loop write to distinct parts")]
pub(in crate::kernel) fn gated(x: &[f32], k: usize, [gate, up]: [Matrix<'_>; 2], out: &mut [f32], threads: Threads) {
    let m = x.len() / k;
    assert_eq!((x.len(), gate.rows(k)), (m * k, up.rows(k)), "sizes of a gate");
    assert_eq!(Some(out.len()), gate.rows(k).map(|n| m * n), "sizes of a hidden state");
    if m == 0 {
        return;
    }
    if ![gate, up].iter().all(|w| w.is_streamed(m)) {
        let mut factor = Scratch::new(out.len());
        products(x, k, vec![(gate, &mut *out), (up, &mut factor)], false, threads);
        let len = out.len();
        let target = SharedMat::of(MatMut::new(out, 1, len));
        return threads.for_each(len.div_ceil(CHUNK), |index| {
            let part = index * CHUNK..((index + 1) * CHUNK).min(len);
            // SAFETY: the parts are distinct.
            silu_times(unsafe { target.row(0, part.clone()) }, &factor[part]);
        });
    }
    let x = Activations::new(x, k, [&gate, &up].into_iter());
    let target = rows_of(out, m);
    in_rows([m, k], &[gate], Some(up), threads, |_, rows| {
        let mut blocks = Scratch::new(2 * m * rows.len());
        let (hidden, factor) = blocks.split_at_mut(m * rows.len());
        x.times(gate, rows.clone(), hidden);
        x.times(up, rows.clone(), factor);
        silu_times(hidden, factor);
        put(&target, rows, hidden, false);
    });
}

/// `gate = silu(gate) ∘ up`.
pub(in crate::kernel) fn silu_times(gate: &mut [f32], up: &[f32]) {
    vectorized!(gate.iter_mut().zip(up).for_each(|(gate, up)| *gate = silu(*gate) * up));
}

/// `m` rows of equal length, which the tasks of [`in_rows`] fill.
fn rows_of(out: &mut [f32], m: usize) -> SharedMat<'_> {
    let n = out.len() / m;
    SharedMat::of(MatMut::new(out, m, n))
}

/// Writes the block of a task of [`in_rows`], or adds it.
#[expect(unsafe_code, reason = "the tasks of a loop write to distinct columns")]
fn put(target: &SharedMat<'_>, rows: Range<usize>, block: &[f32], accumulate: bool) {
    // SAFETY: `in_rows` hands out every row of a matrix once, and a row of the matrix is a column of the target.
    unsafe { if accumulate { target.add(rows, block) } else { target.put(rows, block) } };
}

/// `out[i, j] = x_i · w_j`. A product is summed in the same order for up to [`FEW_ROWS`] rows of `x`, so that batched
/// decoding gives the bits of single decoding.
fn dot_rows(x: &[f32], w: WeightRows<'_>, out: &mut [f32], k: usize) {
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
        // Up to four rows wait for memory, which is read fastest from its start to its end; but where halves come in whole
        // registers, a sum waits longer for the one before it than for memory. Of more rows, a tile has as many sums as
        // there are registers for, beside the numbers that it loads.
        let (few, wide) = (self.x.len() / self.k <= 4, L::REGISTERS == 32);
        match (few, wide) {
            (true, true) if size_of::<W>() == 2 => self.all::<L, 4, 2>(lanes, n),
            (true, _) => self.tiles::<L, 4, 1>(lanes, 0..n),
            (false, true) => self.all::<L, 4, 4>(lanes, n),
            (false, false) => self.all::<L, 3, 2>(lanes, n),
        }
    }
}

/// What a tile asks memory for while it computes.
#[derive(Clone, Copy)]
struct Ahead {
    /// From what the tile reads to what it asks for.
    bytes: usize,
    /// Which part of it, of how many: all tiles on the same weights together ask once for all.
    part: usize,
    parts: usize,
}

impl<W: Widen> DotRows<'_, W> {
    /// The products with all `n` rows of weights, in tiles of `C` of them and of one where there are no `C` left.
    #[inline(always)]
    fn all<L: Lanes, const R: usize, const C: usize>(&mut self, lanes: L, n: usize) {
        let whole = n / C * C;
        self.tiles::<L, R, C>(lanes, 0..whole);
        self.tiles::<L, R, 1>(lanes, whole..n);
    }

    /// The products with some rows of weights, in tiles of `R` rows of `x` by `C` of weights. As many weights as the first
    /// cache holds stay there while all rows of `x` pass by; meanwhile the next ones are asked for.
    #[inline(always)]
    fn tiles<L: Lanes, const R: usize, const C: usize>(&mut self, lanes: L, columns: Range<usize>) {
        let (m, row_bytes) = (self.x.len() / self.k, size_of::<W>() * self.k);
        let parts = m.div_ceil(R);
        let (block, bytes) = match parts {
            1 => (C, PREFETCH_BYTES),
            _ => {
                let block = (FIRST_CACHE_BYTES / row_bytes / C).max(1) * C;
                (block, block * row_bytes)
            }
        };
        for start in columns.clone().step_by(block) {
            for part in 0..parts {
                let (row, ahead) = (part * R, Ahead { bytes, part, parts });
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

    /// The products of `R` rows of `x` with `C` rows of weights: each number is loaded once for all of them, and no sum
    /// waits for the one before it.
    #[inline(always)]
    fn tile<L: Lanes, const R: usize, const C: usize>(&mut self, lanes: L, row: usize, column: usize, ahead: Ahead) {
        let (k, n) = (self.k, self.w.len() / self.k);
        let (x, w) = (&self.x[row * k..(row + R) * k], &self.w[column * k..(column + C) * k]);
        let (blocks, whole) = (k / 16, k / 16 * 16);
        let (mut x_blocks, mut w_blocks) = ([[].as_slice(); R], [[].as_slice(); C]);
        for (r, sixteens) in x_blocks.iter_mut().enumerate() {
            *sixteens = &x[r * k..(r + 1) * k].as_chunks::<16>().0[..blocks];
        }
        for (c, sixteens) in w_blocks.iter_mut().enumerate() {
            *sixteens = &w[c * k..(c + 1) * k].as_chunks::<16>().0[..blocks];
        }
        let asking = blocks * ahead.part / ahead.parts..blocks * (ahead.part + 1) / ahead.parts;
        let mut next = w.as_ptr().wrapping_byte_add(ahead.bytes).wrapping_add(asking.start * C * 16);
        let mut sums = [[lanes.splat(0.0); C]; R];
        for block in 0..blocks {
            if asking.contains(&block) {
                // As much as is loaded here.
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
                if whole < k {
                    let (mut x_rest, mut w_rest) = ([0.0; 16], [W::zeroed(); 16]);
                    x_rest[..k - whole].copy_from_slice(&x[r * k + whole..(r + 1) * k]);
                    w_rest[..k - whole].copy_from_slice(&w[c * k + whole..(c + 1) * k]);
                    sum = lanes.mul_add(lanes.load(&x_rest), W::load(lanes, &w_rest), sum);
                }
                self.out[(row + r) * n + column + c] = lanes.sum(sum);
            }
        }
    }
}

/// The sixteen elements from `start` on.
#[inline(always)]
pub(in crate::kernel) fn sixteen<T>(slice: &[T], start: usize) -> &[T; 16] {
    slice[start..start + 16].as_array().expect("sixteen")
}

/// Products with rows of floats; those of one type in one loop.
fn in_tiles(x: &[f32], k: usize, products: Vec<Product<'_>>, accumulate: bool, threads: Threads) {
    let m = x.len() / k;
    let (mut floats, mut halves, mut brains) = (Vec::new(), Vec::new(), Vec::new());
    for (w, out) in products {
        let n = out.len() / m;
        let out = MatMut::new(out, m, n);
        match w {
            Matrix::Rows(WeightRows::F32(w)) => floats.push((out, Mat::new(w, n, k))),
            Matrix::Rows(WeightRows::F16(w)) => halves.push((out, Mat::new(w, n, k).t())),
            Matrix::Rows(WeightRows::Bf16(w)) => brains.push((out, Mat::new(w, n, k).t())),
            Matrix::Quantized(_) => unreachable!("blocks have a kernel of their own"),
        }
    }
    let x = Mat::new(x, m, k);
    if m < MANY_ROWS {
        gemms_unpacked(floats, accumulate, x, threads);
    } else {
        let transposed = floats.into_iter().map(|(out, w)| (out, w.t())).collect();
        gemms(transposed, accumulate, x, threads);
    }
    gemms(halves, accumulate, x, threads);
    gemms(brains, accumulate, x, threads);
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

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
    fn a_row_has_the_same_bits_alone_and_in_a_small_batch() {
        let (n, k) = (77, 83);
        let (x, w) = (numbers(FEW_ROWS * k, 3), numbers(n * k, 4));
        let mut together = vec![0.0; FEW_ROWS * n];
        matmul_nt(&x, WeightRows::F32(&w), &mut together, k, Threads::Pool);
        for (x, together) in x.chunks_exact(k).zip(together.chunks_exact(n)) {
            let mut alone = vec![0.0; n];
            matmul_nt(x, WeightRows::F32(&w), &mut alone, k, Threads::One);
            assert_eq!(alone, together);
        }
    }
}
