//! The innermost product: a tile of the result that stays in registers over the whole depth.

use crate::kernel::cpu::lanes::Lanes;
use crate::kernel::cpu::sixteen;

/// Rows of a tile.
pub(super) const ROWS: usize = 12;
/// Columns of a tile.
pub(super) const COLUMNS: usize = 32;

/// Depths from a load to the loads that are asked for meanwhile: the right panel is larger than the first cache.
const AHEAD: usize = 8;

/// The sums of a tile.
pub(super) type Sums = [[f32; COLUMNS]; ROWS];

/// `sums = Σ_depth left[depth]ᵀ · right[depth]`, of a panel of [`ROWS`] lines and one of [`COLUMNS`]; of the rows, only the
/// first `rows` are wanted.
#[inline(always)]
pub(super) fn tile<L: Lanes>(lanes: L, left: &[f32], right: &[f32], rows: usize, sums: &mut Sums) {
    // Twenty-four sums want thirty-two registers; where there are sixteen, twelve sums of half as many numbers.
    if L::REGISTERS == 32 {
        match rows {
            9.. => part::<L, 12, 2>(lanes, left, right, [0, 0], sums),
            5.. => part::<L, 8, 2>(lanes, left, right, [0, 0], sums),
            _ => part::<L, 4, 2>(lanes, left, right, [0, 0], sums),
        }
    } else {
        for row in (0..rows).step_by(6) {
            part::<L, 6, 1>(lanes, left, right, [row, 0], sums);
            part::<L, 6, 1>(lanes, left, right, [row, 16], sums);
        }
    }
}

/// `R` rows and `V` times sixteen columns of a tile, from `[row, column]` on.
#[inline(always)]
fn part<L: Lanes, const R: usize, const V: usize>(
    lanes: L,
    left: &[f32],
    right: &[f32],
    [row, column]: [usize; 2],
    sums: &mut Sums,
) {
    let mut totals = [[lanes.splat(0.0); V]; R];
    for (left, right) in left.as_chunks::<ROWS>().0.iter().zip(right.as_chunks::<COLUMNS>().0) {
        for line in (column..column + V * 16).step_by(16) {
            lanes.prefetch(right.as_ptr().wrapping_add(AHEAD * COLUMNS + line));
        }
        let mut columns = [lanes.splat(0.0); V];
        for (v, column_values) in columns.iter_mut().enumerate() {
            *column_values = lanes.load(sixteen(right, column + v * 16));
        }
        for (totals, left) in totals.iter_mut().zip(&left[row..row + R]) {
            let left = lanes.splat(*left);
            for (total, column_values) in totals.iter_mut().zip(columns) {
                *total = lanes.mul_add(left, column_values, *total);
            }
        }
    }
    for (sums, totals) in sums[row..row + R].iter_mut().zip(totals) {
        let (sixteens, _) = sums[column..].as_chunks_mut::<16>();
        for (sixteen, total) in sixteens.iter_mut().zip(totals) {
            lanes.store(total, sixteen);
        }
    }
}
