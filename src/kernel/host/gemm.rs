//! `C = A·B (+ C)` on strided slices: the safe face of the `gemm` crate.

use gemm::Parallelism;

/// A matrix seen through strides.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Mat<'a> {
    data: &'a [f32],
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

impl<'a> Mat<'a> {
    /// `rows × cols`, row-major.
    pub(in crate::kernel) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// `rows × cols` with rows `row_stride` apart.
    pub(in crate::kernel) fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
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
#[expect(unsafe_code, reason = "the gemm crate takes raw pointers; the slices behind them are checked here")]
pub(in crate::kernel) fn gemm(out: MatMut<'_>, accumulate: bool, a: Mat<'_>, b: Mat<'_>, threads: Threads) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    assert_eq!((out.rows, out.cols, b.rows), (m, n, k), "sizes of a product");
    let parallelism = match threads {
        Threads::Pool if m.saturating_mul(n).saturating_mul(k) >= 64 * 64 * 64 => Parallelism::Rayon(0),
        _ => Parallelism::None,
    };
    // SAFETY: `fits` has checked at construction that every (row, column) of the three matrices lies inside its
    // slice and that strides are isize; `out` is borrowed mutably, so it overlaps neither operand; no two elements of
    // `out` share a place, as its rows are at least `cols` apart.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.data.as_mut_ptr(),
            1,
            out.row_stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0).collect()
    }

    #[test]
    fn a_product_of_strided_and_transposed_matrices_is_the_sum_over_the_inner_axis() {
        for (m, k, n) in [(1, 1, 1), (3, 5, 2), (17, 9, 33), (1, 40, 7)] {
            let (a, b) = (numbers(m * (k + 3)), numbers(n * k));
            let mut out = vec![1.0; m * (n + 2)];
            let rows = Mat::strided(&a, m, k, k + 3);
            gemm(MatMut::strided(&mut out, m, n, n + 2), true, rows, Mat::new(&b, n, k).t(), Threads::Pool);
            for i in 0..m {
                for j in 0..n {
                    let sum: f64 = (0..k).map(|l| f64::from(a[i * (k + 3) + l]) * f64::from(b[j * k + l])).sum();
                    assert!((f64::from(out[i * (n + 2) + j]) - 1.0 - sum).abs() < 1e-4, "{m}×{k}×{n} at {i},{j}");
                }
            }
            assert!(m == 1 || out[n] == 1.0, "what lies between rows is untouched");
        }
    }

    #[test]
    fn an_empty_inner_axis_gives_zeros() {
        let mut out = vec![7.0; 6];
        gemm(MatMut::new(&mut out, 2, 3), false, Mat::new(&[], 2, 0), Mat::new(&[], 0, 3), Threads::One);
        assert_eq!(out, [0.0; 6]);
    }

    #[test]
    #[should_panic(expected = "2×3 by 3 of 5")]
    fn a_matrix_must_fit_its_slice() {
        Mat::new(&[0.0; 5], 2, 3);
    }
}
