//! Activations rounded to 8 bits times a quantized matrix: integer sums within a block, float sums across blocks.

use rayon::prelude::*;

use super::matrix::QuantizedMatrix;
use super::panel::PANEL;
use crate::kernel::blocks::{BlockFormat, Layout, Scales};
use crate::kernel::cpu::{Lanes, PREFETCH_BYTES, WithLanes, sixteen, vectorized, with_lanes};

/// Activations `d·q`, `q` in `−127..=127`, one `d` per 32 elements of a row.
pub(in crate::kernel) struct QuantizedRows {
    cols: usize,
    codes: Vec<i8>,
    /// `d`, one per 32 elements.
    scales: Vec<f32>,
    /// Sums of 16 codes each.
    sums: Vec<i32>,
}

/// One row in units of 32 elements.
#[derive(Clone, Copy, Default)]
struct Row<'a> {
    codes: &'a [[[[i8; 4]; 4]; 2]],
    scales: &'a [f32],
    sums: &'a [[i32; 2]],
}

/// Input and outputs of the rounding: values, codes, scales, sums.
type Rounding<'a> = (((&'a [f32], &'a mut [i8]), &'a mut [f32]), &'a mut [i32]);

impl QuantizedRows {
    /// Rounds each 32 elements of a row to 255 levels, scaled by their largest magnitude. A non-finite input gives
    /// non-finite products.
    ///
    /// # Panics
    /// If `cols` is not a multiple of 32.
    pub(in crate::kernel) fn round(x: &[f32], cols: usize) -> Self {
        assert!(cols.is_multiple_of(32) && x.len().is_multiple_of(cols), "rows of {cols} values in blocks of 32");
        let mut rows =
            Self { cols, codes: vec![0; x.len()], scales: vec![0.0; x.len() / 32], sums: vec![0; x.len() / 16] };
        let (codes, scales, sums) = (&mut rows.codes, &mut rows.scales, &mut rows.sums);
        let round = |(((x, codes), scales), sums): Rounding<'_>| {
            vectorized!(round_blocks(x, codes, scales, sums));
        };
        if x.len() <= 16 * cols {
            round((((x, codes), scales), sums));
        } else {
            let inputs = x.par_chunks(cols).zip(codes.par_chunks_mut(cols));
            inputs.zip(scales.par_chunks_mut(cols / 32)).zip(sums.par_chunks_mut(cols / 16)).for_each(round);
        }
        rows
    }

    pub(in crate::kernel) fn len(&self) -> usize {
        self.codes.len() / self.cols
    }

    fn row(&self, row: usize) -> Row<'_> {
        let units = row * self.cols / 32..(row + 1) * self.cols / 32;
        Row {
            codes: &self.codes.as_chunks::<4>().0.as_chunks::<4>().0.as_chunks::<2>().0[units.clone()],
            scales: &self.scales[units.clone()],
            sums: &self.sums.as_chunks::<2>().0[units],
        }
    }
}

/// Loops over arrays of constant length, without overflow checks: otherwise the compiler does not vectorize them, and rounding
/// takes 3.5 instead of 1.0 ns per element.
#[inline(always)]
fn round_blocks(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    // Adding 1.5·2^23 leaves the nearest integer in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    let (x, codes, sums) = (x.as_chunks::<32>().0, codes.as_chunks_mut::<32>().0, sums.as_chunks_mut::<2>().0);
    for (((x, codes), scale), sums) in x.iter().zip(codes).zip(scales).zip(sums) {
        // The bits of magnitudes sort like the magnitudes, non-finite ones last.
        let largest = x.iter().fold(0, |largest, value| value.abs().to_bits().max(largest));
        let largest = f32::from_bits(largest);
        *scale = largest / 127.0;
        let inverse = if largest == 0.0 { 0.0 } else { 127.0 / largest };
        let mut nearest = [0i32; 32];
        for (nearest, value) in nearest.iter_mut().zip(x) {
            *nearest = (value * inverse + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32;
        }
        for (code, nearest) in codes.iter_mut().zip(nearest) {
            *code = nearest as i8;
        }
        for (sum, nearest) in sums.iter_mut().zip(nearest.as_chunks::<16>().0) {
            *sum = nearest.iter().fold(0, |sum, code| sum.wrapping_add(i32::from(*code as i8)));
        }
    }
}

/// `out[m, rows] = x · w[rows]ᵀ` for a range of rows that starts at a multiple of 16.
///
/// Blocks are summed in order in every lane, tile and thread, so results are deterministic.
///
/// # Panics
/// If the sizes disagree.
pub(in crate::kernel) fn multiply(
    x: &QuantizedRows,
    w: &QuantizedMatrix,
    rows: std::ops::Range<usize>,
    out: &mut [f32],
) {
    assert_eq!(x.cols, w.dims()[1], "activations and weights of a row");
    assert_eq!((rows.start % PANEL, out.len()), (0, x.len() * rows.len()), "whole panels, and an output of their size");
    macro_rules! for_format {
        ($($format:ident)*) => {
            match w.format() {
                $(BlockFormat::$format => {
                    with_lanes(Multiply::<{ BlockFormat::$format as usize }> { x, w, rows, out });
                })*
            }
        };
    }
    for_format!(Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K);
}

/// The kernel of `BlockFormat::ALL[FORMAT]`.
struct Multiply<'a, const FORMAT: usize> {
    x: &'a QuantizedRows,
    w: &'a QuantizedMatrix,
    rows: std::ops::Range<usize>,
    out: &'a mut [f32],
}

impl<const FORMAT: usize> WithLanes for Multiply<'_, FORMAT> {
    #[inline(always)]
    fn with_lanes<L: Lanes>(self, lanes: L) {
        let Self { x, w, rows, out } = self;
        let n = rows.len();
        for start in (0..n).step_by(PANEL) {
            let panel = w.panel((rows.start + start) / PANEL);
            let mut row = 0;
            while row + 8 <= x.len() {
                store(lanes, tile::<L, FORMAT, 8>(lanes, panel, x, row), out, row, start, n);
                row += 8;
            }
            if row + 4 <= x.len() {
                store(lanes, tile::<L, FORMAT, 4>(lanes, panel, x, row), out, row, start, n);
                row += 4;
            }
            while row < x.len() {
                store(lanes, tile::<L, FORMAT, 1>(lanes, panel, x, row), out, row, start, n);
                row += 1;
            }
        }
    }
}

/// Stores a tile at `out[row.., start..]`; `out` has `n` columns.
#[inline(always)]
fn store<L: Lanes, const R: usize>(
    lanes: L,
    tile: [L::Floats; R],
    out: &mut [f32],
    row: usize,
    start: usize,
    n: usize,
) {
    let width = PANEL.min(n - start);
    for (r, sums) in tile.into_iter().enumerate() {
        let mut stored = [0.0; PANEL];
        lanes.store(sums, &mut stored);
        let at = (row + r) * n + start;
        out[at..at + width].copy_from_slice(&stored[..width]);
    }
}

/// Micro-kernel: `R` rows of `x` by the sixteen rows of a panel.
#[inline(always)]
fn tile<L: Lanes, const FORMAT: usize, const R: usize>(
    lanes: L,
    panel: &[u8],
    x: &QuantizedRows,
    row: usize,
) -> [L::Floats; R] {
    let layout = const { BlockFormat::ALL[FORMAT].layout() };
    let bits = layout.bits[0] + layout.bits[1];
    let mut rows = [Row::default(); R];
    for (r, row_of_tile) in rows.iter_mut().enumerate() {
        *row_of_tile = x.row(row + r);
    }
    let mut totals = [lanes.splat(0.0); R];
    for (index, block) in panel.chunks_exact(layout.panel_block_bytes()).enumerate() {
        if row == 0 {
            let lines = block.chunks(64).map(|line| line.as_ptr().wrapping_add(PREFETCH_BYTES));
            lines.for_each(|line| lanes.prefetch(line));
        }
        let (head, units) = block.split_at(layout.head_bytes());
        let heads = head.as_chunks::<32>().0;
        let d = lanes.load_f16(&heads[0]);
        let m = lanes.load_f16(&heads[heads.len() - 1]);
        for (unit, bytes) in units.chunks_exact(layout.unit_bytes()).enumerate() {
            let unit = index * (layout.block / 32) + unit;
            let (scales, codes) = bytes.split_at(32 / layout.sub_block * layout.scale_bytes());
            let [low, high] = unpack(lanes, layout, codes);
            let first = scale_and_minimum(lanes, layout, scales, [d, m]);
            for (row, total) in rows.iter().zip(&mut totals) {
                let (x, [low_sum, high_sum], x_scale) = (&row.codes[unit], row.sums[unit], row.scales[unit]);
                let [low_x, high_x] = x;
                let offset = |sum: i32| lanes.splat_int(-i32::from(layout.offset) * sum);
                if layout.sub_block == 32 {
                    let sum = low_sum + high_sum;
                    let dot = lanes.dot16(lanes.dot16(offset(sum), &low, low_x, bits), &high, high_x, bits);
                    *total = add_sub_block(lanes, layout, *total, dot, first, x_scale, sum);
                } else {
                    let second = scale_and_minimum(lanes, layout, &scales[layout.scale_bytes()..], [d, m]);
                    let dot = lanes.dot16(offset(low_sum), &low, low_x, bits);
                    *total = add_sub_block(lanes, layout, *total, dot, first, x_scale, low_sum);
                    let dot = lanes.dot16(offset(high_sum), &high, high_x, bits);
                    *total = add_sub_block(lanes, layout, *total, dot, second, x_scale, high_sum);
                }
            }
        }
    }
    totals
}

/// Adds the scaled dot products of a sub-block to the total.
#[inline(always)]
fn add_sub_block<L: Lanes>(
    lanes: L,
    layout: Layout,
    total: L::Floats,
    dot: L::Ints,
    [scale, minimum]: [L::Floats; 2],
    x_scale: f32,
    x_sum: i32,
) -> L::Floats {
    let total = lanes.mul_add(lanes.to_floats(dot), lanes.mul(scale, lanes.splat(x_scale)), total);
    let scaled_sum = x_scale * x_sum as f32;
    match layout.scales {
        Scales::Plain | Scales::Signed => total,
        Scales::WithMinimum => lanes.mul_add(minimum, lanes.splat(scaled_sum), total),
        Scales::TwoBytes | Scales::TwoNibbles => lanes.mul_add(minimum, lanes.splat(-scaled_sum), total),
    }
}

/// Scale and minimum of a sub-block, one row per lane. The minimum is unused in formats without one.
#[inline(always)]
fn scale_and_minimum<L: Lanes>(lanes: L, layout: Layout, bytes: &[u8], [d, m]: [L::Floats; 2]) -> [L::Floats; 2] {
    match layout.scales {
        Scales::Plain | Scales::WithMinimum => [d, m],
        Scales::Signed => [lanes.mul(d, lanes.to_floats(lanes.load_i8(sixteen(bytes, 0)))), m],
        Scales::TwoBytes => {
            let scale = lanes.to_floats(lanes.load_u8(sixteen(bytes, 0)));
            let minimum = lanes.to_floats(lanes.load_u8(sixteen(bytes, 16)));
            [lanes.mul(d, scale), lanes.mul(m, minimum)]
        }
        Scales::TwoNibbles => {
            let both = lanes.load_u8(sixteen(bytes, 0));
            let (scale, minimum) = (lanes.to_floats(lanes.bits(both, 0, 4)), lanes.to_floats(lanes.bits(both, 4, 4)));
            [lanes.mul(d, scale), lanes.mul(m, minimum)]
        }
    }
}

/// Codes of 32 elements, four elements per vector. Unrolled, so that shift counts are constants.
#[inline(always)]
fn unpack<L: Lanes>(lanes: L, layout: Layout, bytes: &[u8]) -> [[L::Bytes; 4]; 2] {
    let planes = bytes.as_chunks::<64>().0;
    macro_rules! codes {
        ($($group:literal)*) => {
            [$(code(lanes, layout, planes, $group)),*]
        };
    }
    [codes![0 1 2 3], codes![4 5 6 7]]
}

/// Codes of the elements `4·group..4·group + 4`.
#[inline(always)]
fn code<L: Lanes>(lanes: L, layout: Layout, planes: &[[u8; 64]], group: usize) -> L::Bytes {
    let [low, high] = layout.bits;
    let plane = lanes.load_bytes(&planes[group % low]);
    let code = if low == 8 { plane } else { lanes.byte_bits(plane, (group / low * low) as u32, low as u32) };
    if high == 0 {
        return code;
    }
    let plane = lanes.load_bytes(&planes[low + group % high]);
    let upper = lanes.byte_bits(plane, (group / high * high) as u32, high as u32);
    lanes.join(code, upper, low as u32)
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::kernel::blocks::fixture::{blocks, numbers};
    use crate::kernel::cpu::Plain;

    const COLS: usize = 512;

    fn matrix(format: BlockFormat, rows: usize) -> QuantizedMatrix {
        QuantizedMatrix::from_blocks(format, [rows, COLS], &blocks(format, rows * COLS, 5))
    }

    fn product(x: &QuantizedRows, w: &QuantizedMatrix, rows: Range<usize>) -> Vec<f32> {
        let mut out = vec![0.0; x.len() * rows.len()];
        multiply(x, w, rows, &mut out);
        out
    }

    /// `x·wᵀ` of the rounded activations, in double precision, and the sum of the magnitudes of its terms.
    fn exact(x: &QuantizedRows, w: &QuantizedMatrix) -> Vec<(f64, f64)> {
        let values = w.dequantize();
        let rounded = |at: usize| f64::from(x.scales[at / 32]) * f64::from(x.codes[at]);
        let mut products = Vec::new();
        for row in 0..x.len() {
            for w in values.chunks_exact(COLS) {
                let terms = w.iter().enumerate().map(|(i, w)| rounded(row * COLS + i) * f64::from(*w));
                products.push(terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs())));
            }
        }
        products
    }

    #[test]
    fn every_format_multiplies_rounded_activations() {
        for format in BlockFormat::ALL {
            for (m, n) in [(1, 1), (1, 16), (2, 33), (5, 17), (13, 40)] {
                let (x, w) = (QuantizedRows::round(&numbers(m * COLS, 3), COLS), matrix(format, n));
                for (found, (expected, size)) in product(&x, &w, 0..n).into_iter().zip(exact(&x, &w)) {
                    let off = (f64::from(found) - expected).abs();
                    assert!(off < 2e-6 * size, "{format:?} {m}×{n}: {found}, expected {expected}");
                }
            }
        }
    }

    #[test]
    fn one_wrong_code_changes_the_product() {
        for format in BlockFormat::ALL {
            let x = QuantizedRows::round(&numbers(COLS, 3), COLS);
            let mut bytes = blocks(format, COLS, 5);
            let (right, size) = exact(&x, &QuantizedMatrix::from_blocks(format, [1, COLS], &bytes))[0];
            // In every format a byte of codes, not of scales.
            let at = if format.block_len() == 32 { format.block_bytes() - 1 } else { 64 };
            bytes[at] ^= 1;
            let wrong = product(&x, &QuantizedMatrix::from_blocks(format, [1, COLS], &bytes), 0..1)[0];
            assert!((f64::from(wrong) - right).abs() > 2e-6 * size, "{format:?}");
        }
    }

    #[test]
    fn products_equal_those_of_plain_lanes_bit_for_bit() {
        fn plain<const FORMAT: usize>(x: &QuantizedRows, w: &QuantizedMatrix) -> Vec<f32> {
            let mut out = vec![0.0; x.len() * w.dims()[0]];
            Multiply::<FORMAT> { x, w, rows: 0..w.dims()[0], out: &mut out }.with_lanes(Plain);
            out
        }
        let x = QuantizedRows::round(&numbers(13 * COLS, 9), COLS);
        macro_rules! check {
            ($($format:ident)*) => {
                $({
                    let w = matrix(BlockFormat::$format, 21);
                    let expected = plain::<{ BlockFormat::$format as usize }>(&x, &w);
                    assert_eq!(product(&x, &w, 0..21), expected, "{:?}", w.format());
                })*
            };
        }
        check!(Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K);
    }

    #[test]
    fn a_row_has_the_same_bits_alone_in_a_batch_and_in_a_slice() {
        for format in BlockFormat::ALL {
            let (values, w) = (numbers(13 * COLS, 1), matrix(format, 40));
            let together = product(&QuantizedRows::round(&values, COLS), &w, 0..40);
            for (row, x) in values.chunks_exact(COLS).enumerate() {
                let alone = QuantizedRows::round(x, COLS);
                assert_eq!(product(&alone, &w, 0..40), together[row * 40..(row + 1) * 40]);
                assert_eq!(product(&alone, &w, 16..40), together[row * 40 + 16..(row + 1) * 40]);
            }
        }
    }

    #[test]
    fn activations_are_rounded_to_the_nearest_step() {
        let values = numbers(40 * COLS, 2);
        let x = QuantizedRows::round(&values, COLS);
        for (i, value) in values.iter().enumerate() {
            let step = x.scales[i / 32];
            let off = (f32::from(x.codes[i]) * step - value).abs();
            assert!(off <= 0.5001 * step, "{value} is {off} off in steps of {step}");
        }
        for (codes, sum) in x.codes.chunks_exact(16).zip(&x.sums) {
            assert_eq!(codes.iter().map(|code| i32::from(*code)).sum::<i32>(), *sum);
        }
    }

    #[test]
    fn non_finite_activations_give_non_finite_products() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = numbers(COLS, 4);
            values[70] = bad;
            let found = product(&QuantizedRows::round(&values, COLS), &matrix(BlockFormat::Q4_0, 3), 0..3);
            assert!(found.iter().all(|y| !y.is_finite()), "{bad}: {found:?}");
        }
    }
}
