//! Packing of operands into panels.

use std::ops::Range;

use crate::kernel::cpu::Mat;
use crate::kernel::cpu::lanes::{Lanes, WithLanes, with_lanes};
use crate::kernel::cpu::weight_rows::Widen;

/// Prefetch distance along a line, in elements.
const PREFETCH_ELEMENTS: usize = 64;
/// Prefetch distance in depths.
const PREFETCH_DEPTHS: usize = 8;

/// Packs the block `[lines, depths]` of a matrix into panels of `WIDTH` lines, each panel `[depth, line]`. The last panel is
/// padded with zeros. Lines are rows.
pub(in crate::kernel) fn pack<W: Widen, const WIDTH: usize>(
    mat: Mat<'_, W>,
    lines: Range<usize>,
    depths: Range<usize>,
    panels: &mut [f32],
) {
    with_lanes(Pack::<W, WIDTH> { mat, lines, depths, panels });
}

struct Pack<'a, W, const WIDTH: usize> {
    mat: Mat<'a, W>,
    lines: Range<usize>,
    depths: Range<usize>,
    panels: &'a mut [f32],
}

impl<W: Widen, const WIDTH: usize> WithLanes for Pack<'_, W, WIDTH> {
    #[inline(always)]
    fn with_lanes<L: Lanes>(self, lanes: L) {
        if self.mat.row_stride == 1 { self.copy(lanes) } else { self.transpose(lanes) }
    }
}

impl<W: Widen, const WIDTH: usize> Pack<'_, W, WIDTH> {
    /// For elements of one depth that are contiguous.
    #[inline(always)]
    fn copy<L: Lanes>(self, lanes: L) {
        let Self { mat, lines, depths, panels } = self;
        let size = depths.len() * WIDTH;
        for (index, depth) in depths.enumerate() {
            let start = depth * mat.col_stride + lines.start;
            for line in (0..lines.len()).step_by(64 / size_of::<W>()) {
                lanes.prefetch(mat.data.as_ptr().wrapping_add(start + PREFETCH_DEPTHS * mat.col_stride + line));
            }
            for (numbers, panel) in mat.data[start..][..lines.len()].chunks(WIDTH).zip(panels.chunks_exact_mut(size)) {
                let step = &mut panel[index * WIDTH..(index + 1) * WIDTH];
                match (step.as_mut_array::<WIDTH>(), numbers.as_array::<WIDTH>()) {
                    (Some(step), Some(numbers)) => {
                        step.iter_mut().zip(numbers).for_each(|(to, from)| *to = from.widen())
                    }
                    _ => {
                        step[numbers.len()..].fill(0.0);
                        step.iter_mut().zip(numbers).for_each(|(to, from)| *to = from.widen());
                    }
                }
            }
        }
    }

    /// For elements of one line that are contiguous: transposes blocks of 16×16.
    #[inline(always)]
    fn transpose<L: Lanes>(self, lanes: L) {
        let Self { mat, lines, depths, panels } = self;
        for (panel, start) in panels.chunks_exact_mut(depths.len() * WIDTH).zip(lines.clone().step_by(WIDTH)) {
            for group in (0..WIDTH).step_by(16) {
                let lines = (start + group).min(lines.end)..(start + group + 16).min(start + WIDTH).min(lines.end);
                for (index, first) in depths.clone().enumerate().step_by(16) {
                    let mut block = [[0.0; 16]; 16];
                    let count = (depths.end - first).min(16);
                    for (row, line) in block.iter_mut().zip(lines.clone()) {
                        let numbers = &mat.data[line * mat.row_stride + first..][..count];
                        // More lines than the hardware prefetcher tracks.
                        lanes.prefetch(numbers.as_ptr().wrapping_add(PREFETCH_ELEMENTS));
                        match numbers.as_array::<16>() {
                            Some(numbers) => lanes.store(W::load(lanes, numbers), row),
                            None => row.iter_mut().zip(numbers).for_each(|(to, from)| *to = from.widen()),
                        }
                    }
                    lanes.transpose(&mut block);
                    for (step, row) in block[..count].iter().enumerate() {
                        let to = &mut panel[(index + step) * WIDTH + group..];
                        match to.first_chunk_mut() {
                            // Overruns into the next depth, which is written next.
                            Some(to) => *to = *row,
                            None => to.copy_from_slice(&row[..to.len()]),
                        }
                    }
                }
            }
        }
    }
}
