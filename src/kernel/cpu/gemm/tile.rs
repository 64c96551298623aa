//! Micro-kernel of packed operands: a tile of `C` stays in registers over the depth.

use super::tiling::COLUMNS;
use crate::kernel::cpu::lanes::Lanes;
use crate::kernel::cpu::sixteen;

/// Rows of a tile.
pub(super) const ROWS: usize = 12;

/// Prefetch distance in depths: a panel of `B` does not fit in L1.
const PREFETCH_DEPTHS: usize = 8;

/// A tile of `C`.
pub(super) type Sums = [[f32; COLUMNS]; ROWS];

/// `sums = Σ_depth a[depth]ᵀ·b[depth]` of a panel of [`ROWS`] lines and one of [`COLUMNS`]. Only the first `rows` rows need be
/// computed.
#[inline(always)]
pub(super) fn tile<L: Lanes>(lanes: L, a: &[f32], b: &[f32], rows: usize, sums: &mut Sums) {
    // 24 accumulators of 16 lanes need 32 registers. With 16 registers of 8 lanes: 12 accumulators.
    if L::REGISTERS == 32 {
        match rows {
            9.. => part::<L, 12, 2>(lanes, a, b, [0, 0], sums),
            5.. => part::<L, 8, 2>(lanes, a, b, [0, 0], sums),
            _ => part::<L, 4, 2>(lanes, a, b, [0, 0], sums),
        }
    } else {
        for row in (0..rows).step_by(6) {
            part::<L, 6, 1>(lanes, a, b, [row, 0], sums);
            part::<L, 6, 1>(lanes, a, b, [row, 16], sums);
        }
    }
}

/// `R` rows by `V` vectors of a tile, from `[row, column]` on.
#[inline(always)]
fn part<L: Lanes, const R: usize, const V: usize>(
    lanes: L,
    a: &[f32],
    b: &[f32],
    [row, column]: [usize; 2],
    sums: &mut Sums,
) {
    let mut totals = [[lanes.splat(0.0); V]; R];
    for (a, b) in a.as_chunks::<ROWS>().0.iter().zip(b.as_chunks::<COLUMNS>().0) {
        for line in (column..column + V * 16).step_by(16) {
            lanes.prefetch(b.as_ptr().wrapping_add(PREFETCH_DEPTHS * COLUMNS + line));
        }
        let mut columns = [lanes.splat(0.0); V];
        for (v, column_values) in columns.iter_mut().enumerate() {
            *column_values = lanes.load(sixteen(b, column + v * 16));
        }
        for (totals, a) in totals.iter_mut().zip(&a[row..row + R]) {
            let a = lanes.splat(*a);
            for (total, column_values) in totals.iter_mut().zip(columns) {
                *total = lanes.mul_add(a, column_values, *total);
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
