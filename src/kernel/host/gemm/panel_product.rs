//! Rows of a matrix, read where they lie, times a panel: the innermost product where only one operand is packed.

use crate::kernel::host::lanes::Lanes;
use crate::kernel::host::{Mat, sixteen};

/// Numbers of a panel at one depth.
pub(in crate::kernel) const WIDTH: usize = super::tile::COLUMNS;
/// The numbers of a panel at one depth.
pub(in crate::kernel) type Row = [f32; WIDTH];

/// Depths from a load to the loads that are asked for meanwhile: a panel may be larger than the first cache.
const AHEAD: usize = 8;

/// `sums[i] = Σ_t a[i, t]·panel[t]`, plus the sums that were there times `kept`; of each row, at least the first `width`.
///
/// # Panics
/// If `a` has not as many rows as `sums` and not as many columns as the panel.
#[inline(always)]
pub(in crate::kernel) fn panel_product<L: Lanes>(
    lanes: L,
    a: Mat<'_>,
    panel: &[Row],
    width: usize,
    kept: Option<&Row>,
    sums: &mut [Row],
) {
    assert_eq!(a.dims(), [sums.len(), panel.len()], "sizes of a product");
    let mut row = 0;
    while row < sums.len() {
        // As many sums as there are registers for, beside what is loaded.
        row += match (L::REGISTERS == 32, width <= 16, sums.len() - row) {
            (true, false, 8..) => tile::<L, 8, 2>(lanes, a, panel, kept, sums, [row, 0]),
            (true, true, 12..) => tile::<L, 12, 1>(lanes, a, panel, kept, sums, [row, 0]),
            (_, true, 6..) => tile::<L, 6, 1>(lanes, a, panel, kept, sums, [row, 0]),
            (false, false, 6..) => {
                tile::<L, 6, 1>(lanes, a, panel, kept, sums, [row, 0]);
                tile::<L, 6, 1>(lanes, a, panel, kept, sums, [row, 16])
            }
            (_, _, 4..) => {
                tile::<L, 4, 1>(lanes, a, panel, kept, sums, [row, 0]);
                tile::<L, 4, 1>(lanes, a, panel, kept, sums, [row, 16])
            }
            _ => tile::<L, 1, 2>(lanes, a, panel, kept, sums, [row, 0]),
        };
    }
}

/// `R` rows and `V` times sixteen columns of [`panel_product`], from `[row, column]` on; gives `R`.
#[inline(always)]
#[expect(unsafe_code, reason = "a check for each number would be as many instructions as products")]
fn tile<L: Lanes, const R: usize, const V: usize>(
    lanes: L,
    a: Mat<'_>,
    panel: &[Row],
    kept: Option<&Row>,
    sums: &mut [Row],
    [row, column]: [usize; 2],
) -> usize {
    assert!(row + R <= a.dims()[0] && panel.len() == a.dims()[1], "sizes of a product");
    let mut totals = [[lanes.splat(0.0); V]; R];
    if let Some(kept) = kept {
        for (totals, sums) in totals.iter_mut().zip(&sums[row..row + R]) {
            for (v, total) in totals.iter_mut().enumerate() {
                let at = column + v * 16;
                *total = lanes.mul(lanes.load(sixteen(sums, at)), lanes.load(sixteen(kept, at)));
            }
        }
    }
    let mut rows = [[].as_slice(); R];
    let mut stride = 1;
    for (r, numbers) in rows.iter_mut().enumerate() {
        (*numbers, stride) = a.row(row + r);
    }
    let mut at = 0usize;
    for step in panel {
        for line in (column..column + V * 16).step_by(16) {
            lanes.prefetch(step.as_ptr().wrapping_add(AHEAD * WIDTH + line));
        }
        let mut numbers = [lanes.splat(0.0); V];
        for (v, numbers) in numbers.iter_mut().enumerate() {
            *numbers = lanes.load(sixteen(step, column + v * 16));
        }
        for (totals, numbers_of_row) in totals.iter_mut().zip(rows) {
            // SAFETY: the matrix, which is inside its slice, has as many columns as the panel has steps.
            let left = lanes.splat(unsafe { *numbers_of_row.get_unchecked(at) });
            for (total, numbers) in totals.iter_mut().zip(numbers) {
                *total = lanes.mul_add(left, numbers, *total);
            }
        }
        at = at.wrapping_add(stride);
    }
    for (sums, totals) in sums[row..row + R].iter_mut().zip(totals) {
        let (sixteens, _) = sums[column..].as_chunks_mut::<16>();
        for (sixteen, total) in sixteens.iter_mut().zip(totals) {
            lanes.store(total, sixteen);
        }
    }
    R
}
