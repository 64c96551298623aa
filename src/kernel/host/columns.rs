//! A matrix that the tasks of a loop fill, each some columns of it.

use std::marker::PhantomData;
use std::ops::Range;

/// `rows × cols`, row-major.
pub(in crate::kernel) struct Columns<'a> {
    data: *mut f32,
    rows: usize,
    cols: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer stands for the mutable borrow that `of` took; `put` writes to columns that its caller alone has.
#[expect(unsafe_code, reason = "tasks on several threads write to distinct columns of one borrowed matrix")]
unsafe impl Sync for Columns<'_> {}

impl<'a> Columns<'a> {
    /// All of `data` as a matrix of so many rows.
    pub(in crate::kernel) fn of(data: &'a mut [f32], rows: usize) -> Self {
        let cols = data.len().checked_div(rows).unwrap_or(0);
        assert_eq!(data.len(), rows * cols, "{rows} rows of equal length");
        Self { data: data.as_mut_ptr(), rows, cols, borrow: PhantomData }
    }

    /// Writes `block`, one row behind the other, to `columns`.
    ///
    /// # Safety
    /// No other thread writes to any of `columns` meanwhile.
    #[expect(unsafe_code, reason = "that columns are distinct is known to the caller alone")]
    pub(in crate::kernel) unsafe fn put(&self, columns: Range<usize>, block: &[f32]) {
        assert!(columns.end <= self.cols && block.len() == self.rows * columns.len(), "a block of whole columns");
        for (row, block) in block.chunks_exact(columns.len().max(1)).enumerate() {
            // SAFETY: row and columns lie inside the matrix, so the target inside the borrowed slice; nobody else
            // writes there, says the caller, and nobody reads before the borrow ends.
            unsafe {
                let target = self.data.add(row * self.cols + columns.start);
                target.copy_from_nonoverlapping(block.as_ptr(), block.len());
            }
        }
    }
}
