//! The interface of tilings, and helpers that they share.

use std::ops::Range;

use crate::kernel::cpu::mat::{Mat, SharedMat};
use crate::kernel::cpu::weight_rows::Widen;

/// Columns of a panel of `B`.
pub(super) const COLUMNS: usize = 32;

/// The layout of packed operands, and the micro-kernel that multiplies them.
pub(super) trait Tiling: Copy + Sync {
    /// An element of a packed panel.
    type Packed: bytemuck::Pod + Send + Sync;
    /// Rows of a panel of `A`. Panels of `B` have [`COLUMNS`] columns.
    const ROWS: usize;
    /// Rows of `A` that are packed at once (`mc`). The columns of `B` are packed for each such block.
    const BLOCK_ROWS: usize;
    /// Most columns of a task (`nc`).
    const TASK_COLUMNS: usize;

    /// Packed elements of a panel of `A`.
    fn panel_len(depth: usize) -> usize;
    /// Packed elements of `B` that stay in L2 while all of `A` is read, at least those of a panel.
    fn block_len(depth: usize) -> usize;
    /// Packs the block `[rows, depths]` of `a` into panels of [`ROWS`](Self::ROWS) rows, padded with zeros.
    fn pack_rows(self, a: Mat<'_>, rows: Range<usize>, depths: Range<usize>, panels: &mut [Self::Packed]);
    /// Packs the block `[depths, columns]` of `b` into panels of [`COLUMNS`] columns, padded with zeros, up to as many columns
    /// as `panels` has room for. Returns those columns and their packed elements.
    fn pack_columns<'p, W: Widen>(
        self,
        b: Mat<'_, W>,
        columns: Range<usize>,
        depths: Range<usize>,
        panels: &'p mut [Self::Packed],
    ) -> (Range<usize>, &'p [Self::Packed]);
    /// Multiplies packed panels.
    fn multiply(self, tiles: Tiles<'_, Self::Packed>);
}

/// The product of two packed blocks, and the part of `C` that it is.
pub(super) struct Tiles<'a, P> {
    pub out: &'a SharedMat<'a>,
    pub accumulate: bool,
    pub depth: usize,
    pub rows: Range<usize>,
    pub columns: Range<usize>,
    pub packed_a: &'a [P],
    pub packed_b: &'a [P],
}

/// Writes or accumulates a tile with rows of [`COLUMNS`] sums, cut to the given rows and columns.
#[inline(always)]
#[expect(unsafe_code, reason = "parallel tasks write to disjoint tiles")]
pub(super) fn store(
    out: &SharedMat<'_>,
    rows: Range<usize>,
    columns: Range<usize>,
    sums: &[[f32; COLUMNS]],
    accumulate: bool,
) {
    for (row, sums) in rows.zip(sums) {
        // SAFETY: `DepthBlock::rows` pairs each band of rows with each block of columns once.
        let target = unsafe { out.row(row, columns.clone()) };
        match target.as_mut_array::<COLUMNS>() {
            Some(target) if !accumulate => *target = *sums,
            Some(target) => target.iter_mut().zip(sums).for_each(|(target, sum)| *target += sum),
            None if !accumulate => target.copy_from_slice(&sums[..columns.len()]),
            None => target.iter_mut().zip(sums).for_each(|(target, sum)| *target += sum),
        }
    }
}

/// The columns whose panels, each of `panel_len` elements, fit in `room`, and how many elements those are.
pub(super) fn fitting(columns: Range<usize>, panel_len: usize, room: usize) -> (Range<usize>, usize) {
    let num_panels = (room / panel_len).min(columns.len().div_ceil(COLUMNS));
    (columns.start..columns.end.min(columns.start + num_panels * COLUMNS), num_panels * panel_len)
}

/// Splits a range into blocks of `step`.
pub(super) fn blocks(range: Range<usize>, step: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(step).map(move |start| start..(start + step).min(end))
}
