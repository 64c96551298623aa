//! Packing of operands into the tiles that AMX multiplies, in one or more bfloat16 parts.
//!
//! A panel has 32 lines. For every 32 depths and each part it has two tiles of sixteen lines by sixteen pairs of depths, padded
//! with zeros. A pair is a `u32` with the first depth in its low half.
//!
//! The first part of a number is the number rounded to bfloat16, the next is what remains, rounded, and so on. Each part has
//! eight bits of the significand and its own sign, so that three parts sum to any float32 exactly. If the first part is
//! infinite, the second is NaN.

use std::array::from_fn;
use std::ops::Range;

use super::super::tiling::COLUMNS;
use crate::kernel::cpu::lanes::{Lanes, WithLanes, with_lanes};
use crate::kernel::cpu::mat::Mat;
use crate::kernel::cpu::weight_rows::Widen;

/// Depths of a tile.
const DEPTHS: usize = 32;
/// Prefetch distance in depths.
const PREFETCH_DEPTHS: usize = 2 * DEPTHS;
/// Lines of a tile.
const LINES: usize = 16;

/// A tile of pairs, in the order of [`RowsAre`].
pub(super) type Tile = [[u32; 16]; 16];

/// The contents of a row of a tile.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RowsAre {
    /// The sixteen pairs of a line: the left operand.
    Lines,
    /// A pair of each of the sixteen lines: the right operand.
    Pairs,
}

/// Tiles of a panel of this depth.
pub(super) fn tiles_of_panel<const PARTS: usize>(depth: usize) -> usize {
    COLUMNS / LINES * PARTS * depth.div_ceil(DEPTHS)
}

/// Packs the block `[lines, depths]` of a matrix whose lines are rows.
pub(super) fn pack_pairs<W: Widen, const PARTS: usize>(
    mat: Mat<'_, W>,
    lines: Range<usize>,
    depths: Range<usize>,
    rows_are: RowsAre,
    tiles: &mut [Tile],
) {
    with_lanes(Pack::<W, PARTS, false> { mat, lines, depths, rows_are, tiles, others: &mut [0; LINES] });
}

/// [`pack_pairs`] of one part, if all numbers of the block are finite bfloat16 numbers. Otherwise it returns `false` at the first
/// tiles with another number, and leaves `tiles` unspecified.
pub(super) fn pack_bfloat16<W: Widen>(
    mat: Mat<'_, W>,
    lines: Range<usize>,
    depths: Range<usize>,
    rows_are: RowsAre,
    tiles: &mut [Tile],
) -> bool {
    let mut others = [0; LINES];
    with_lanes(Pack::<W, 1, true> { mat, lines, depths, rows_are, tiles, others: &mut others });
    others == [0; LINES]
}

/// A block to pack. If `CHECKED`, its numbers should be finite bfloat16 numbers, whose part is the upper half.
struct Pack<'a, W, const PARTS: usize, const CHECKED: bool> {
    mat: Mat<'a, W>,
    lines: Range<usize>,
    depths: Range<usize>,
    rows_are: RowsAre,
    tiles: &'a mut [Tile],
    /// Not zero after a number that is not a finite bfloat16 number.
    others: &'a mut [u32; LINES],
}

impl<W: Widen, const PARTS: usize, const CHECKED: bool> WithLanes for Pack<'_, W, PARTS, CHECKED> {
    #[inline(always)]
    fn with_lanes<L: Lanes>(self, lanes: L) {
        const { assert!(!CHECKED || PARTS == 1, "a bfloat16 number has one part") };
        let Self { mat, lines, depths, rows_are, tiles, others } = self;
        let within = |start: usize, len: usize, end: usize| start.min(end)..(start + len).min(end);
        let across = mat.row_stride == 1;
        let (panels, steps) = (lines.len().div_ceil(COLUMNS), depths.len().div_ceil(DEPTHS));
        // In the order of memory.
        let [outer, inner] = if across { [steps, panels] } else { [panels, steps] };
        for (outer, inner) in (0..outer).flat_map(|outer| (0..inner).map(move |inner| (outer, inner))) {
            let (panel, step) = if across { (inner, outer) } else { (outer, inner) };
            let len = tiles_of_panel::<PARTS>(DEPTHS);
            let tiles = &mut tiles[(panel * steps + step) * len..][..len];
            let depths = within(depths.start + step * DEPTHS, DEPTHS, depths.end);
            for half in 0..COLUMNS / LINES {
                let lines = within(lines.start + panel * COLUMNS + half * LINES, LINES, lines.end);
                let mut of_half = tiles[half..].iter_mut().step_by(COLUMNS / LINES);
                let mut parts: [&mut Tile; PARTS] = from_fn(|_| of_half.next().expect("two tiles of each part"));
                let stored = if across {
                    interleave::<L, W, PARTS, CHECKED>(lanes, mat, lines, depths.clone(), others, &mut parts);
                    RowsAre::Pairs
                } else {
                    copy::<L, W, PARTS, CHECKED>(lanes, mat, lines, depths.clone(), others, &mut parts);
                    RowsAre::Lines
                };
                if stored != rows_are {
                    parts.into_iter().for_each(|tile| lanes.transpose(bytemuck::cast_mut(tile)));
                }
            }
            if CHECKED && *others != [0; LINES] {
                return;
            }
        }
    }
}

/// For elements of one line that are contiguous.
#[inline(always)]
fn copy<L: Lanes, W: Widen, const PARTS: usize, const CHECKED: bool>(
    lanes: L,
    mat: Mat<'_, W>,
    lines: Range<usize>,
    depths: Range<usize>,
    others: &mut [u32; LINES],
    tiles: &mut [&mut Tile; PARTS],
) {
    let end = lines.len();
    for (index, line) in lines.enumerate() {
        let numbers = &mat.data[line * mat.row_stride + depths.start..][..depths.len()];
        for ahead in (PREFETCH_DEPTHS..PREFETCH_DEPTHS + DEPTHS).step_by(64 / size_of::<W>()) {
            lanes.prefetch(numbers.as_ptr().wrapping_add(ahead));
        }
        let mut padded = [W::zeroed(); DEPTHS];
        let numbers = numbers.as_array().unwrap_or_else(|| pad(numbers, &mut padded));
        for (half, numbers) in numbers.as_chunks().0.iter().enumerate() {
            if CHECKED {
                mark_others(others, numbers);
            }
            for (tile, part) in tiles.iter_mut().zip(parts_of_all::<_, PARTS, CHECKED>(numbers)) {
                let halves: &mut [[u16; 16]; 2] = bytemuck::cast_mut(&mut tile[index]);
                halves[half] = part;
            }
        }
    }
    tiles.iter_mut().for_each(|tile| tile[end..].fill([0; 16]));
}

/// For elements of one depth that are contiguous.
#[inline(always)]
fn interleave<L: Lanes, W: Widen, const PARTS: usize, const CHECKED: bool>(
    lanes: L,
    mat: Mat<'_, W>,
    lines: Range<usize>,
    depths: Range<usize>,
    others: &mut [u32; LINES],
    tiles: &mut [&mut Tile; PARTS],
) {
    for pair in 0..DEPTHS / 2 {
        let depth = depths.start + 2 * pair;
        // No closures, and a plain loop over the lanes, or the compiler keeps numbers and parts in memory.
        let low = depth_of_lines(lanes, mat, &lines, depth, depths.end);
        let high = depth_of_lines(lanes, mat, &lines, depth + 1, depths.end);
        if CHECKED {
            mark_others(others, &low);
            mark_others(others, &high);
        }
        let mut pairs = [[0; LINES]; PARTS];
        for lane in 0..LINES {
            let (low, high) = (parts::<_, PARTS, CHECKED>(low[lane]), parts::<_, PARTS, CHECKED>(high[lane]));
            for part in 0..PARTS {
                pairs[part][lane] = low[part] >> 16 | high[part];
            }
        }
        for (tile, pairs) in tiles.iter_mut().zip(pairs) {
            tile[pair] = pairs;
        }
    }
}

/// One depth of some lines, zero from the depth `end` on.
#[inline(always)]
fn depth_of_lines<L: Lanes, W: Widen>(
    lanes: L,
    mat: Mat<'_, W>,
    lines: &Range<usize>,
    depth: usize,
    end: usize,
) -> [W; LINES] {
    let mut padded = [W::zeroed(); LINES];
    if depth >= end {
        return padded;
    }
    let start = depth * mat.col_stride + lines.start;
    lanes.prefetch(mat.data.as_ptr().wrapping_add(start + DEPTHS * mat.col_stride));
    let numbers = &mat.data[start..][..lines.len()];
    *numbers.as_array().unwrap_or_else(|| pad(numbers, &mut padded))
}

/// Pads numbers with zeros. Not inlined, or LLVM merges it with the copy of a whole array into one of variable length, by
/// `memcpy`.
#[inline(never)]
fn pad<'a, W: Widen, const N: usize>(numbers: &[W], padded: &'a mut [W; N]) -> &'a [W; N] {
    padded[..numbers.len()].copy_from_slice(numbers);
    padded
}

/// The parts of numbers, each as the upper half of a float32.
#[inline(always)]
fn parts_of_all<W: Widen, const PARTS: usize, const CHECKED: bool>(numbers: &[W; LINES]) -> [[u16; LINES]; PARTS] {
    let mut of_all = [[0; LINES]; PARTS];
    for (index, number) in numbers.iter().enumerate() {
        for (part, bits) in of_all.iter_mut().zip(parts::<_, PARTS, CHECKED>(*number)) {
            part[index] = (bits >> 16) as u16;
        }
    }
    of_all
}

/// Marks numbers that are not finite bfloat16 numbers. An infinite number gives NaN in three parts; one part would give infinity,
/// depending on the rest of the block.
#[inline(always)]
fn mark_others<W: Widen>(others: &mut [u32; LINES], numbers: &[W; LINES]) {
    for (other, number) in others.iter_mut().zip(numbers) {
        let bits = number.widen().to_bits();
        *other |= bits & 0xffff | u32::from(bits & 0x7f80_0000 == 0x7f80_0000);
    }
}

/// The parts of a number, each as the bits of a float32 whose lower half is zero.
#[inline(always)]
fn parts<W: Widen, const PARTS: usize, const CHECKED: bool>(number: W) -> [u32; PARTS] {
    if CHECKED {
        return [number.widen().to_bits() & 0xffff_0000; PARTS];
    }
    let mut parts = [u32::from(number.to_bfloat16_bits()) << 16; PARTS];
    let mut rest = number.widen();
    for part in 1..PARTS {
        rest -= f32::from_bits(parts[part - 1]);
        // Ties may go either way: the next part has the remainder, and the last one is exact.
        parts[part] = rest.to_bits().wrapping_add(0x8000) & 0xffff_0000;
    }
    parts
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use proptest::prelude::*;

    use super::*;

    /// The parts of the number at `[line, depth]`, where tiles have them.
    fn found<const PARTS: usize>(
        tiles: &[Tile],
        rows_are: RowsAre,
        depths: usize,
        [line, depth]: [usize; 2],
    ) -> [u16; PARTS] {
        let step = line / COLUMNS * depths.div_ceil(DEPTHS) + depth / DEPTHS;
        let (line, pair) = (line % COLUMNS, depth % DEPTHS / 2);
        from_fn(|part| {
            let tile = &tiles[(step * PARTS + part) * 2 + line / LINES];
            let pair = match rows_are {
                RowsAre::Lines => tile[line % LINES][pair],
                RowsAre::Pairs => tile[pair][line % LINES],
            };
            (pair >> (16 * (depth % 2))) as u16
        })
    }

    fn every_element_is_at_its_place<const PARTS: usize>(parts_of: fn(f32) -> [u16; PARTS]) {
        for (rows, depth) in [(1, 1), (16, 32), (17, 33), (40, 70), (64, 31)] {
            let numbers: Vec<f32> = (0..(rows + 2) * (depth + 3)).map(|i| i as f32 * 0.37 - 9.0).collect();
            let along = Mat::strided(&numbers, rows, depth, depth + 3);
            let across = Mat::strided(&numbers, depth, rows, rows + 2).t();
            for mat in [along, across] {
                let (lines, depths) = (rows / 3..rows, depth / 4..depth);
                for rows_are in [RowsAre::Lines, RowsAre::Pairs] {
                    let [padded_lines, padded_depths] =
                        [lines.len().next_multiple_of(COLUMNS), depths.len().next_multiple_of(DEPTHS)];
                    let len = padded_lines / COLUMNS * tiles_of_panel::<PARTS>(depths.len());
                    let mut tiles = vec![[[7; 16]; 16]; len];
                    pack_pairs::<_, PARTS>(mat, lines.clone(), depths.clone(), rows_are, &mut tiles);
                    for line in 0..padded_lines {
                        for depth in 0..padded_depths {
                            let is_inside = line < lines.len() && depth < depths.len();
                            let at = [lines.start + line, depths.start + depth];
                            let number = || mat.data[at[0] * mat.row_stride + at[1] * mat.col_stride];
                            let expected = if is_inside { parts_of(number()) } else { [0; PARTS] };
                            let found = found(&tiles, rows_are, depths.len(), [line, depth]);
                            assert_eq!(found, expected, "{rows}×{depth} at {at:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn each_layout_has_every_part_at_its_place_and_zeros_elsewhere() {
        every_element_is_at_its_place(|number| [bf16::from_f32(number).to_bits()]);
        every_element_is_at_its_place(|number| parts::<_, 3, false>(number).map(|part| (part >> 16) as u16));
    }

    fn packs<W: Widen>(mat: Mat<'_, W>, lines: &Range<usize>, depths: &Range<usize>) -> bool {
        let mut tiles = vec![[[7; 16]; 16]; lines.len().div_ceil(COLUMNS) * tiles_of_panel::<1>(depths.len())];
        let mut of_any = tiles.clone();
        let packs = pack_bfloat16(mat, lines.clone(), depths.clone(), RowsAre::Pairs, &mut tiles);
        pack_pairs::<_, 1>(mat, lines.clone(), depths.clone(), RowsAre::Pairs, &mut of_any);
        assert!(!packs || tiles == of_any, "the tiles of bfloat16 numbers");
        packs
    }

    #[test]
    fn one_number_of_a_block_shows_that_not_all_are_finite_bfloat16() {
        let (rows, depth, stride) = (40, 70, 73);
        let (lines, depths) = (3..37, 5..68);
        let mut numbers = vec![bf16::from_f32(0.3).to_f32(); rows * stride];
        let number = f32::from_bits(numbers[0].to_bits() + 1);
        for [line, depth_at] in [[3, 5], [36, 67], [20, 30], [2, 5], [36, 68]] {
            let is_outside = !lines.contains(&line) || !depths.contains(&depth_at);
            numbers[line * stride + depth_at] = number;
            let along = Mat::strided(&numbers, rows, depth, stride);
            assert_eq!(packs(along, &lines, &depths), is_outside, "{line},{depth_at}");
            assert_eq!(packs(along.t(), &depths, &lines), is_outside, "{line},{depth_at} across");
            numbers[line * stride + depth_at] = numbers[0];
        }
        for (number, expected) in [(bf16::MAX, true), (bf16::INFINITY, false), (bf16::NAN, false)] {
            assert_eq!(packs(Mat::new(&[number; 6], 2, 3), &(0..2), &(0..3)), expected, "{number}");
            assert_eq!(packs(Mat::new(&[number.to_f32(); 6], 2, 3), &(0..2), &(0..3)), expected, "{number}");
        }
    }

    fn three_parts(number: f32) -> [f64; 3] {
        parts::<_, 3, false>(number).map(|part| f64::from(f32::from_bits(part)))
    }

    /// Numbers whose parts are finite and not denormal.
    fn usual_numbers() -> impl Strategy<Value = f32> {
        any::<u32>()
            .prop_map(f32::from_bits)
            .prop_filter("the exponent is in range", |number| number.abs() < 3e38 && number.abs() > 2f32.powi(-100))
    }

    proptest! {
        #[test]
        fn three_parts_sum_to_the_number(number in usual_numbers()) {
            let parts = three_parts(number);
            prop_assert!(parts.iter().all(|part| f64::from(bf16::from_f64(*part).to_f32()) == *part));
            prop_assert_eq!(parts.iter().sum::<f64>(), f64::from(number));
        }

        #[test]
        fn six_products_of_parts_are_within_the_rounding_of_float32(a in usual_numbers(), b in usual_numbers()) {
            let (left, right) = (three_parts(a), three_parts(b));
            let pairs = [[2, 0], [1, 0], [1, 1], [0, 1], [0, 2], [0, 0]];
            let sum: f64 = pairs.iter().map(|[i, j]| left[*i] * right[*j]).sum();
            let exact = f64::from(a) * f64::from(b);
            // The second part is at most 2⁻⁸ of the number's power of two, the third 2⁻¹⁷; a₁b₂, a₂b₁ and a₂b₂ are left out.
            prop_assert!((sum - exact).abs() <= (2f64.powi(-24) + 2f64.powi(-34)) * exact.abs());
        }
    }
}
