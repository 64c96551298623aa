//! Tiles of float32 in vector registers.

use std::ops::Range;

use super::panels::pack;
use super::tile::{ROWS, Sums, tile};
use super::tiling::{COLUMNS, Tiles, Tiling, blocks, fitting, store};
use crate::kernel::cpu::lanes::{Lanes, WithLanes, with_lanes};
use crate::kernel::cpu::mat::Mat;
use crate::kernel::cpu::weight_rows::Widen;

/// Panels `[depth, line]` of float32.
#[derive(Clone, Copy)]
pub(super) struct Float32;

impl Tiling for Float32 {
    type Packed = f32;
    const ROWS: usize = ROWS;
    const BLOCK_ROWS: usize = 1536;
    const TASK_COLUMNS: usize = 3 * COLUMNS;

    fn panel_len(depth: usize) -> usize {
        ROWS * depth
    }

    fn block_len(depth: usize) -> usize {
        Self::TASK_COLUMNS * depth
    }

    fn pack_rows(self, a: Mat<'_>, rows: Range<usize>, depths: Range<usize>, panels: &mut [f32]) {
        pack::<f32, ROWS>(a, rows, depths, panels);
    }

    fn pack_columns<'p, W: Widen>(
        self,
        b: Mat<'_, W>,
        columns: Range<usize>,
        depths: Range<usize>,
        panels: &'p mut [f32],
    ) -> (Range<usize>, &'p [f32]) {
        let (columns, len) = fitting(columns, COLUMNS * depths.len(), panels.len());
        pack::<W, COLUMNS>(b.t(), columns.clone(), depths, &mut panels[..len]);
        (columns, &panels[..len])
    }

    fn multiply(self, tiles: Tiles<'_, f32>) {
        with_lanes(tiles);
    }
}

impl WithLanes for Tiles<'_, f32> {
    #[inline(always)]
    fn with_lanes<L: Lanes>(self, lanes: L) {
        let mut sums: Sums = [[0.0; COLUMNS]; ROWS];
        for (a_panel, rows) in self.packed_a.chunks_exact(ROWS * self.depth).zip(blocks(self.rows, ROWS)) {
            for (b_panel, columns) in
                self.packed_b.chunks_exact(COLUMNS * self.depth).zip(blocks(self.columns.clone(), COLUMNS))
            {
                tile(lanes, a_panel, b_panel, rows.len(), &mut sums);
                store(self.out, rows.clone(), columns, &sums, self.accumulate);
            }
        }
    }
}
