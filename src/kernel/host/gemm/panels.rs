//! A block of an operand in the order in which a product reads it.

use std::ops::Range;

use super::Mat;
use crate::kernel::host::weight_rows::Widen;

/// Packs `lines` of a matrix, at `depths` of each, in panels of `WIDTH` lines: within a panel one depth behind the other,
/// and at each depth the numbers of all its lines; zeros where the last panel has no more lines. Lines are rows.
pub(super) fn pack<W: Widen, const WIDTH: usize>(
    mat: Mat<'_, W>,
    lines: Range<usize>,
    depths: Range<usize>,
    panels: &mut [f32],
) {
    for (start, panel) in lines.clone().step_by(WIDTH).zip(panels.chunks_exact_mut(depths.len() * WIDTH)) {
        let count = WIDTH.min(lines.end - start);
        let (steps, _) = panel.as_chunks_mut::<WIDTH>();
        if count < WIDTH {
            steps.iter_mut().for_each(|step| step[count..].fill(0.0));
        }
        if mat.row_stride == 1 {
            for (step, depth) in steps.iter_mut().zip(depths.clone()) {
                let numbers = &mat.data[depth * mat.col_stride + start..][..count];
                step.iter_mut().zip(numbers).for_each(|(to, from)| *to = from.widen());
            }
        } else {
            for line in 0..count {
                let numbers = &mat.data[(start + line) * mat.row_stride + depths.start..][..depths.len()];
                steps.iter_mut().zip(numbers).for_each(|(step, number)| step[line] = number.widen());
            }
        }
    }
}
