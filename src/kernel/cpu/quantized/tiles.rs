//! Products of a quantized matrix with float activations, dequantized a tile at a time: for training, where rounded activations
//! would have no gradient.

use std::ops::Range;

use rayon::prelude::*;

use super::QuantizedMatrix;
use crate::kernel::cpu::gemm::gemm;
use crate::kernel::cpu::mat::{Mat, MatMut};
use crate::kernel::cpu::spin_pool::Threads;

/// Rows that are dequantized at once.
const TILE_ROWS: usize = 256;

impl QuantizedMatrix {
    /// `out[m, n] = x[m, k]·W[n, k]ᵀ`.
    pub(in crate::kernel) fn product(&self, x: &[f32], out: &mut [f32]) {
        let [n, k] = self.dims();
        let m = out.len() / n.max(1);
        self.for_each_tile(|rows, tile| {
            let target = MatMut::strided(&mut out[rows.start.min(m * n)..], m, rows.len(), n);
            gemm(target, false, Mat::new(x, m, k), Mat::new(tile, rows.len(), k).t(), Threads::Pool);
        });
    }

    /// `out[m, k] = grad[m, n]·W[n, k]`.
    pub(in crate::kernel) fn input_gradient(&self, grad: &[f32], out: &mut [f32]) {
        let [n, k] = self.dims();
        let m = out.len() / k.max(1);
        self.for_each_tile(|rows, tile| {
            let of_rows = Mat::strided(&grad[rows.start.min(m * n)..], m, rows.len(), n);
            let tile = Mat::new(tile, rows.len(), k);
            gemm(MatMut::new(&mut *out, m, k), rows.start > 0, of_rows, tile, Threads::Pool);
        });
    }

    /// Calls `body` with the indices and the values of some rows at a time, in order.
    fn for_each_tile(&self, mut body: impl FnMut(Range<usize>, &[f32])) {
        let [n, k] = self.dims();
        let mut tile = vec![0.0; TILE_ROWS.min(n) * k];
        for first in (0..n).step_by(TILE_ROWS) {
            let rows = first..(first + TILE_ROWS).min(n);
            let tile = &mut tile[..rows.len() * k];
            let each = tile.par_chunks_exact_mut(k.max(1)).enumerate();
            each.for_each(|(row, out)| self.dequantize_row(first + row, out));
            body(rows, tile);
        }
    }
}
