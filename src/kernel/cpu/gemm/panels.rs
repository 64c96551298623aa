//! A block of an operand in the order in which a product reads it.

use std::ops::Range;

use crate::kernel::cpu::Mat;
use crate::kernel::cpu::lanes::{Lanes, WithLanes, with_lanes};
use crate::kernel::cpu::weight_rows::Widen;

/// Numbers of a line from a load to the load that is asked for meanwhile.
const AHEAD: usize = 64;
/// Depths from a load to the load that is asked for meanwhile.
const DEPTHS_AHEAD: usize = 8;

/// Packs `lines` of a matrix, at `depths` of each, in panels of `WIDTH` lines: within a panel one depth behind the other,
/// and at each depth the numbers of all its lines; zeros where the last panel has no more lines. Lines are rows.
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
        if self.mat.row_stride == 1 { self.copied(lanes) } else { self.transposed(lanes) }
    }
}

impl<W: Widen, const WIDTH: usize> Pack<'_, W, WIDTH> {
    /// Where the numbers of one depth lie side by side.
    #[inline(always)]
    fn copied<L: Lanes>(self, lanes: L) {
        let Self { mat, lines, depths, panels } = self;
        let size = depths.len() * WIDTH;
        for (index, depth) in depths.enumerate() {
            let start = depth * mat.col_stride + lines.start;
            for line in (0..lines.len()).step_by(64 / size_of::<W>()) {
                lanes.prefetch(mat.data.as_ptr().wrapping_add(start + DEPTHS_AHEAD * mat.col_stride + line));
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

    /// Where the numbers of one line lie side by side: sixteen of up to sixteen lines at once.
    #[inline(always)]
    fn transposed<L: Lanes>(self, lanes: L) {
        let Self { mat, lines, depths, panels } = self;
        for (panel, start) in panels.chunks_exact_mut(depths.len() * WIDTH).zip(lines.clone().step_by(WIDTH)) {
            for group in (0..WIDTH).step_by(16) {
                let lines = (start + group).min(lines.end)..(start + group + 16).min(start + WIDTH).min(lines.end);
                for (index, first) in depths.clone().enumerate().step_by(16) {
                    let mut block = [[0.0; 16]; 16];
                    let count = (depths.end - first).min(16);
                    for (row, line) in block.iter_mut().zip(lines.clone()) {
                        let numbers = &mat.data[line * mat.row_stride + first..][..count];
                        // The lines are too many for the processor to foresee.
                        lanes.prefetch(numbers.as_ptr().wrapping_add(AHEAD));
                        match numbers.as_array::<16>() {
                            Some(numbers) => lanes.store(W::load(lanes, numbers), row),
                            None => row.iter_mut().zip(numbers).for_each(|(to, from)| *to = from.widen()),
                        }
                    }
                    lanes.transpose(&mut block);
                    for (step, row) in block[..count].iter().enumerate() {
                        let to = &mut panel[(index + step) * WIDTH + group..];
                        match to.first_chunk_mut() {
                            // Beyond `WIDTH` it reaches into the next step, which is written next.
                            Some(to) => *to = *row,
                            None => to.copy_from_slice(&row[..to.len()]),
                        }
                    }
                }
            }
        }
    }
}
