//! Micro-kernel with one packed operand: rows of a matrix, read in place, times a packed panel.
//!
//! The pointers to rows take registers, so its tiles are smaller than those of [`tile`](super::tile), which reads two packed
//! operands.

use crate::kernel::cpu::lanes::Lanes;
use crate::kernel::cpu::{Mat, sixteen};

/// Columns of a panel.
pub(in crate::kernel) const PANEL_WIDTH: usize = super::tiling::COLUMNS;
/// One depth of a panel.
pub(in crate::kernel) type PanelRow = [f32; PANEL_WIDTH];

/// Prefetch distance in depths: a panel may not fit in L1.
const PREFETCH_DEPTHS: usize = 8;

/// `sums[i] = Σ_t a[i, t]·panel[t] + beta ∘ sums[i]`, for at least the first `width` columns. Without `beta`, `sums` is only
/// written.
///
/// # Panics
/// If `a` is not `[sums.len(), panel.len()]`.
#[inline(always)]
pub(in crate::kernel) fn panel_product<L: Lanes>(
    lanes: L,
    a: Mat<'_>,
    panel: &[PanelRow],
    width: usize,
    beta: Option<&PanelRow>,
    sums: &mut [PanelRow],
) {
    assert_eq!(a.dims(), [sums.len(), panel.len()], "sizes of a product");
    let mut row = 0;
    while row < sums.len() {
        // Enough accumulators to hide the latency of FMA, and no more rows than registers for their pointers: twelve rows by
        // two vectors spill and lose 30 %.
        row += match (L::REGISTERS == 32, width <= 16, sums.len() - row) {
            (true, true, 8..) => tile::<L, 8, 1>(lanes, a, panel, beta, sums, [row, 0]),
            (true, false, 8..) => tile::<L, 8, 2>(lanes, a, panel, beta, sums, [row, 0]),
            (true, _, 4..) => tile::<L, 4, 2>(lanes, a, panel, beta, sums, [row, 0]),
            (false, true, 6..) => tile::<L, 6, 1>(lanes, a, panel, beta, sums, [row, 0]),
            (false, false, 6..) => {
                tile::<L, 6, 1>(lanes, a, panel, beta, sums, [row, 0]);
                tile::<L, 6, 1>(lanes, a, panel, beta, sums, [row, 16])
            }
            (false, _, 4..) => {
                tile::<L, 4, 1>(lanes, a, panel, beta, sums, [row, 0]);
                tile::<L, 4, 1>(lanes, a, panel, beta, sums, [row, 16])
            }
            _ => tile::<L, 1, 2>(lanes, a, panel, beta, sums, [row, 0]),
        };
    }
}

/// `R` rows by `V` vectors of [`panel_product`], from `[row, column]` on. Returns `R`.
#[inline(always)]
#[expect(unsafe_code, reason = "a bounds check per element would double the instructions")]
fn tile<L: Lanes, const R: usize, const V: usize>(
    lanes: L,
    a: Mat<'_>,
    panel: &[PanelRow],
    beta: Option<&PanelRow>,
    sums: &mut [PanelRow],
    [row, column]: [usize; 2],
) -> usize {
    assert!(row + R <= a.dims()[0] && panel.len() == a.dims()[1], "sizes of a product");
    let mut totals = [[lanes.splat(0.0); V]; R];
    if let Some(beta) = beta {
        for (totals, sums) in totals.iter_mut().zip(&sums[row..row + R]) {
            for (v, total) in totals.iter_mut().enumerate() {
                let at = column + v * 16;
                *total = lanes.mul(lanes.load(sixteen(sums, at)), lanes.load(sixteen(beta, at)));
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
            lanes.prefetch(step.as_ptr().wrapping_add(PREFETCH_DEPTHS * PANEL_WIDTH + line));
        }
        let mut numbers = [lanes.splat(0.0); V];
        for (v, numbers) in numbers.iter_mut().enumerate() {
            *numbers = lanes.load(sixteen(step, column + v * 16));
        }
        for (totals, row_values) in totals.iter_mut().zip(rows) {
            // SAFETY: the matrix is inside its slice and has as many columns as the panel has depths.
            let left = lanes.splat(unsafe { *row_values.get_unchecked(at) });
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::super::tests::numbers;
    use super::*;
    use crate::kernel::cpu::lanes::{WithLanes, with_each_lanes};

    struct Product<'a> {
        a: Mat<'a>,
        panel: &'a [PanelRow],
        width: usize,
        beta: Option<&'a PanelRow>,
        found: &'a RefCell<Vec<Vec<PanelRow>>>,
    }

    impl WithLanes for Product<'_> {
        #[inline(always)]
        fn with_lanes<L: Lanes>(self, lanes: L) {
            let mut sums = vec![[2.0; PANEL_WIDTH]; self.a.dims()[0]];
            panel_product(lanes, self.a, self.panel, self.width, self.beta, &mut sums);
            self.found.borrow_mut().push(sums);
        }
    }

    #[test]
    fn all_lanes_sum_in_order_for_any_number_of_rows() {
        let depth = 19;
        let (numbers_of_a, panel, beta) = (numbers(27 * 25), numbers(depth * PANEL_WIDTH), [0.5; PANEL_WIDTH]);
        let (panel, _) = panel.as_chunks();
        for rows in 1..=25 {
            let along = Mat::strided(&numbers_of_a, rows, depth, 27);
            let across = Mat::strided(&numbers_of_a, depth, rows, 27).t();
            for (a, beta) in [(along, None), (along, Some(&beta)), (across, None), (across, Some(&beta))] {
                for width in [1, 16, 17, 32] {
                    let found = RefCell::default();
                    with_each_lanes(|| Product { a, panel, width, beta, found: &found });
                    let expected: Vec<Vec<f32>> = (0..rows)
                        .map(|row| {
                            let (numbers, stride) = a.row(row);
                            let sum = |column: usize| {
                                let first = beta.map_or(0.0, |beta| 2.0 * beta[column]);
                                (0..depth).fold(first, |sum, t| numbers[t * stride].mul_add(panel[t][column], sum))
                            };
                            (0..width).map(sum).collect()
                        })
                        .collect();
                    for found in found.into_inner() {
                        let found: Vec<_> = found.iter().map(|row| row[..width].to_vec()).collect();
                        assert_eq!(found, expected, "{rows} rows, {width} columns");
                    }
                }
            }
        }
    }
}
