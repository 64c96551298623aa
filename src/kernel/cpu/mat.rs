//! Matrices on borrowed slices, seen through strides.

use std::marker::PhantomData;
use std::ops::Range;

/// A matrix seen through strides.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Mat<'a, W = f32> {
    pub(super) data: &'a [W],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

/// A matrix to write to, rows next to each other or `row_stride` apart.
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

    /// All that lies from the first number of a row on, and how far the numbers of a row are apart.
    #[inline(always)]
    pub(in crate::kernel) fn row(&self, row: usize) -> (&'a [W], usize) {
        (&self.data[row * self.row_stride..], self.col_stride)
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

/// A matrix that the tasks of a loop fill, each its own columns or tiles.
pub(in crate::kernel) struct SharedMat<'a> {
    data: *mut f32,
    rows: usize,
    cols: usize,
    row_stride: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer stands for the mutable borrow that `of` took; a writer is told to have its place alone.
#[expect(unsafe_code, reason = "tasks on several threads write to distinct places of one borrowed matrix")]
unsafe impl Sync for SharedMat<'_> {}

impl<'a> SharedMat<'a> {
    /// All of a matrix.
    pub(in crate::kernel) fn of(MatMut { data, rows, cols, row_stride }: MatMut<'a>) -> Self {
        Self { data: data.as_mut_ptr(), rows, cols, row_stride, borrow: PhantomData }
    }

    /// Some columns of a row.
    ///
    /// # Safety
    /// Nobody else has any of these numbers while the slice lives.
    #[inline(always)]
    #[expect(unsafe_code, clippy::mut_from_ref, reason = "that places are distinct is known to the caller alone")]
    pub(in crate::kernel) unsafe fn row(&self, row: usize, columns: Range<usize>) -> &mut [f32] {
        assert!(row < self.rows && columns.end <= self.cols, "columns inside the matrix");
        // SAFETY: `MatMut` has checked that row and columns lie inside the borrowed slice, which nobody else reads or writes
        // before the borrow ends; nobody else has these numbers, says the caller.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.row_stride + columns.start), columns.len()) }
    }

    /// Writes `block`, one row behind the other, to `columns`.
    ///
    /// # Safety
    /// As [`row`](Self::row), in every row.
    #[expect(unsafe_code, reason = "that columns are distinct is known to the caller alone")]
    pub(in crate::kernel) unsafe fn put(&self, columns: Range<usize>, block: &[f32]) {
        // SAFETY: the caller's promise.
        unsafe { self.each_row(columns, block, |row, block| row.copy_from_slice(block)) };
    }

    /// Adds `block`, one row behind the other, to `columns`.
    ///
    /// # Safety
    /// As [`row`](Self::row), in every row.
    #[expect(unsafe_code, reason = "that columns are distinct is known to the caller alone")]
    pub(in crate::kernel) unsafe fn add(&self, columns: Range<usize>, block: &[f32]) {
        let add = |row: &mut [f32], block: &[f32]| row.iter_mut().zip(block).for_each(|(sum, term)| *sum += term);
        // SAFETY: the caller's promise.
        unsafe { self.each_row(columns, block, add) };
    }

    /// Calls `write` with some columns of every row and the row of a block that is meant for it.
    ///
    /// # Safety
    /// As [`row`](Self::row), in every row.
    #[expect(unsafe_code, reason = "that columns are distinct is known to the caller alone")]
    unsafe fn each_row(&self, columns: Range<usize>, block: &[f32], write: impl Fn(&mut [f32], &[f32])) {
        assert_eq!(block.len(), self.rows * columns.len(), "a block of whole columns");
        for (row, block) in block.chunks_exact(columns.len().max(1)).enumerate() {
            // SAFETY: the caller's promise is that of `row`.
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
