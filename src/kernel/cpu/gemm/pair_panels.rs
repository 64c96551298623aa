//! Packing of operands into the tiles that AMX multiplies, rounded to bfloat16.
//!
//! A panel has 32 lines. For every 32 depths it has two tiles of sixteen lines by sixteen pairs of depths, padded with zeros.
//! A pair is a `u32` with the first depth in its low half.

use std::ops::Range;

use super::tiling::COLUMNS;
use crate::kernel::cpu::lanes::{Lanes, WithLanes, with_lanes};
use crate::kernel::cpu::mat::Mat;
use crate::kernel::cpu::weight_rows::Widen;

/// Depths of a tile.
const DEPTHS: usize = 32;
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
pub(super) fn tiles_of_panel(depth: usize) -> usize {
    COLUMNS / LINES * depth.div_ceil(DEPTHS)
}

/// Packs the block `[lines, depths]` of a matrix whose lines are rows.
pub(super) fn pack_pairs<W: Widen>(
    mat: Mat<'_, W>,
    lines: Range<usize>,
    depths: Range<usize>,
    rows_are: RowsAre,
    tiles: &mut [Tile],
) {
    with_lanes(Pack { mat, lines, depths, rows_are, tiles });
}

struct Pack<'a, W> {
    mat: Mat<'a, W>,
    lines: Range<usize>,
    depths: Range<usize>,
    rows_are: RowsAre,
    tiles: &'a mut [Tile],
}

impl<W: Widen> WithLanes for Pack<'_, W> {
    #[inline(always)]
    fn with_lanes<L: Lanes>(self, lanes: L) {
        let Self { mat, lines, depths, rows_are, tiles } = self;
        let part = |start: usize, len: usize, end: usize| start.min(end)..(start + len).min(end);
        let panels = tiles.chunks_exact_mut(tiles_of_panel(depths.len()));
        for (panel, first) in panels.zip(lines.clone().step_by(COLUMNS)) {
            for (index, tile) in panel.iter_mut().enumerate() {
                let lines = part(first + index % 2 * LINES, LINES, lines.end);
                let depths = part(depths.start + index / 2 * DEPTHS, DEPTHS, depths.end);
                let stored = if mat.row_stride == 1 {
                    interleave(mat, lines, depths, tile);
                    RowsAre::Pairs
                } else {
                    copy(mat, lines, depths, tile);
                    RowsAre::Lines
                };
                if stored != rows_are {
                    lanes.transpose(bytemuck::cast_mut(tile));
                }
            }
        }
    }
}

/// For elements of one line that are contiguous.
#[inline(always)]
fn copy<W: Widen>(mat: Mat<'_, W>, lines: Range<usize>, depths: Range<usize>, tile: &mut Tile) {
    let rest = lines.len();
    for (row, line) in tile.iter_mut().zip(lines) {
        let numbers = &mat.data[line * mat.row_stride + depths.start..][..depths.len()];
        let mut rounded = [0; DEPTHS];
        match numbers.as_array::<DEPTHS>() {
            Some(numbers) => round(numbers, &mut rounded),
            None => round(numbers, &mut rounded[..numbers.len()]),
        }
        *row = bytemuck::cast(rounded);
    }
    tile[rest..].fill([0; 16]);
}

/// For elements of one depth that are contiguous.
#[inline(always)]
fn interleave<W: Widen>(mat: Mat<'_, W>, lines: Range<usize>, depths: Range<usize>, tile: &mut Tile) {
    for (row, depth) in tile.iter_mut().zip((depths.start..).step_by(2)) {
        let [low, high] = [depth, depth + 1].map(|depth| {
            let mut rounded = [0; LINES];
            if depth < depths.end {
                let numbers = &mat.data[depth * mat.col_stride + lines.start..][..lines.len()];
                match numbers.as_array::<LINES>() {
                    Some(numbers) => round(numbers, &mut rounded),
                    None => round(numbers, &mut rounded[..numbers.len()]),
                }
            }
            rounded
        });
        for ((pair, low), high) in row.iter_mut().zip(low).zip(high) {
            *pair = u32::from(low) | u32::from(high) << 16;
        }
    }
}

#[inline(always)]
fn round<W: Widen>(numbers: &[W], rounded: &mut [u16]) {
    rounded.iter_mut().zip(numbers).for_each(|(to, from)| *to = from.to_bfloat16_bits());
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn each_layout_has_every_element_at_its_place_and_zeros_elsewhere() {
        for (rows, depth) in [(1, 1), (16, 32), (17, 33), (40, 70), (64, 31)] {
            let numbers: Vec<f32> = (0..(rows + 2) * (depth + 3)).map(|i| i as f32 * 0.37 - 9.0).collect();
            let along = Mat::strided(&numbers, rows, depth, depth + 3);
            let across = Mat::strided(&numbers, depth, rows, rows + 2).t();
            for mat in [along, across] {
                let (lines, depths) = (rows / 3..rows, depth / 4..depth);
                for rows_are in [RowsAre::Lines, RowsAre::Pairs] {
                    let per_panel = tiles_of_panel(depths.len());
                    let mut tiles = vec![[[7; 16]; 16]; lines.len().div_ceil(COLUMNS) * per_panel];
                    pack_pairs(mat, lines.clone(), depths.clone(), rows_are, &mut tiles);
                    for (index, tile) in tiles.iter().enumerate() {
                        let line = index / per_panel * COLUMNS + index % 2 * LINES;
                        let pair = index % per_panel / 2 * (DEPTHS / 2);
                        for (i, row) in tile.iter().enumerate() {
                            for (j, found) in row.iter().enumerate() {
                                let (line, pair) = match rows_are {
                                    RowsAre::Lines => (line + i, pair + j),
                                    RowsAre::Pairs => (line + j, pair + i),
                                };
                                let [low, high] = [0, 1].map(|k| {
                                    let (line, depth) = (lines.start + line, depths.start + 2 * pair + k);
                                    let is_inside = lines.contains(&line) && depths.contains(&depth);
                                    let number = || mat.data[line * mat.row_stride + depth * mat.col_stride];
                                    if is_inside { bf16::from_f32(number()).to_bits() } else { 0 }
                                });
                                assert_eq!([*found as u16, (found >> 16) as u16], [low, high], "{rows}×{depth}");
                            }
                        }
                    }
                }
            }
        }
    }
}
