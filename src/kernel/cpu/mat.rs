//! Strided f32 matrix views on borrowed slices, the operands of GEMM.

use std::marker::PhantomData;
use std::ops::Range;

/// A strided matrix view.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Mat<'a, W = f32> {
    pub(super) data: &'a [W],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

/// A mutable matrix view with rows `row_stride` apart.
pub(in crate::kernel) struct MatMut<'a> {
    pub(super) data: &'a mut [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
}

impl<'a, W> Mat<'a, W> {
    /// `rows × cols`, row-major.
    pub(in crate::kernel) fn new(data: &'a [W], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// `rows × cols` with rows `row_stride` apart.
    #[inline]
    pub(in crate::kernel) fn strided(data: &'a [W], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(fits(data.len(), rows, cols, row_stride), "{rows}×{cols} by {row_stride} of {}", data.len());
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// Rows and columns.
    #[inline(always)]
    pub(in crate::kernel) fn dims(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// The slice from the first element of a row on, and the stride between the elements of the row.
    #[inline(always)]
    pub(in crate::kernel) fn row(&self, row: usize) -> (&'a [W], usize) {
        (&self.data[row * self.row_stride..], self.col_stride)
    }

    /// The transposed view.
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

    /// `rows × cols` with rows `row_stride` apart. Elements between the rows are not touched.
    pub(in crate::kernel) fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(fits(data.len(), rows, cols, row_stride), "{rows}×{cols} by {row_stride} of {}", data.len());
        assert!(row_stride >= cols, "rows of an output must not overlap");
        Self { data, rows, cols, row_stride }
    }
}

/// Whether every element of a strided matrix is within `len`, with overflow checked.
fn fits(len: usize, rows: usize, cols: usize, row_stride: usize) -> bool {
    let last_row = rows.saturating_sub(1).checked_mul(row_stride);
    let end = last_row.and_then(|start| start.checked_add(cols));
    row_stride <= isize::MAX as usize && end.is_some_and(|end| rows == 0 || cols == 0 || end <= len)
}

/// A mutable matrix that parallel tasks write to, each its own columns or tiles.
pub(in crate::kernel) struct SharedMat<'a> {
    data: *mut f32,
    rows: usize,
    cols: usize,
    row_stride: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer is the mutable borrow that `new` took; writers must not overlap, by the contract of `row`.
#[expect(unsafe_code, reason = "parallel tasks write to disjoint elements of one borrowed matrix")]
unsafe impl Sync for SharedMat<'_> {}

impl<'a> SharedMat<'a> {
    /// Shares a matrix.
    pub(in crate::kernel) fn new(MatMut { data, rows, cols, row_stride }: MatMut<'a>) -> Self {
        Self { data: data.as_mut_ptr(), rows, cols, row_stride, borrow: PhantomData }
    }

    /// Rows and columns.
    #[inline(always)]
    pub(in crate::kernel) fn dims(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// Some columns of a row.
    ///
    /// # Safety
    /// No other reference to these elements exists while the slice lives.
    #[inline(always)]
    #[expect(unsafe_code, clippy::mut_from_ref, reason = "the caller guarantees disjoint elements")]
    pub(in crate::kernel) unsafe fn row(&self, row: usize, columns: Range<usize>) -> &mut [f32] {
        assert!(row < self.rows && columns.end <= self.cols, "columns inside the matrix");
        // SAFETY: `MatMut` checked that the row is inside the borrowed slice, which stays borrowed; the caller guarantees that
        // no other reference to these elements exists.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.row_stride + columns.start), columns.len()) }
    }

    /// Pointer to the first of some elements, and the number of elements from a row to the next.
    #[inline(always)]
    pub(in crate::kernel) fn elements(&self, rows: Range<usize>, columns: Range<usize>) -> (*mut f32, usize) {
        assert!(rows.end <= self.rows && columns.end <= self.cols, "elements inside the matrix");
        (self.data.wrapping_add(rows.start * self.row_stride + columns.start), self.row_stride)
    }

    /// Writes a row-major `block` to `columns`.
    ///
    /// # Safety
    /// As [`row`](Self::row), for every row.
    #[expect(unsafe_code, reason = "the caller guarantees disjoint columns")]
    pub(in crate::kernel) unsafe fn write(&self, columns: Range<usize>, block: &[f32]) {
        // SAFETY: the caller's guarantee.
        unsafe { self.each_row(columns, block, |row, block| row.copy_from_slice(block)) };
    }

    /// Adds a row-major `block` to `columns`.
    ///
    /// # Safety
    /// As [`row`](Self::row), for every row.
    #[expect(unsafe_code, reason = "the caller guarantees disjoint columns")]
    pub(in crate::kernel) unsafe fn add(&self, columns: Range<usize>, block: &[f32]) {
        let add = |row: &mut [f32], block: &[f32]| row.iter_mut().zip(block).for_each(|(sum, term)| *sum += term);
        // SAFETY: the caller's guarantee.
        unsafe { self.each_row(columns, block, add) };
    }

    /// Calls `write` with `columns` of each row and the matching row of `block`.
    ///
    /// # Safety
    /// As [`row`](Self::row), for every row.
    #[expect(unsafe_code, reason = "the caller guarantees disjoint columns")]
    unsafe fn each_row(&self, columns: Range<usize>, block: &[f32], write: impl Fn(&mut [f32], &[f32])) {
        assert_eq!(block.len(), self.rows * columns.len(), "a block has all rows of its columns");
        for (row, block) in block.chunks_exact(columns.len().max(1)).enumerate() {
            // SAFETY: the caller's guarantee is that of `row`.
            write(unsafe { self.row(row, columns.clone()) }, block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "2×3 by 3 of 5")]
    fn a_matrix_must_fit_its_slice() {
        Mat::new(&[0.0_f32; 5], 2, 3);
    }
}
