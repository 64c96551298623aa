//! A quantized weight matrix, interleaved for sixteen lanes.

use half::f16;
use rayon::prelude::*;

use super::panel::PANEL;
use crate::kernel::blocks::{Block, BlockFormat, Layout, Scales};

/// `[rows, cols]` in blocks of a [`BlockFormat`], sixteen rows interleaved.
///
/// Takes the memory of the blocks in the file, except that 6-bit scales take a byte. Values are exactly those of the blocks.
#[derive(Clone)]
pub(in crate::kernel) struct QuantizedMatrix {
    format: BlockFormat,
    rows: usize,
    cols: usize,
    /// Bytes per panel.
    panel_bytes: usize,
    /// For each panel and block: the head (float16 scales, then minima, one per lane), then for each unit of 32 elements the
    /// scales of the sub-blocks and the bit planes of the codes. A plane of `p` bits takes `p·64` bytes, four per lane:
    /// elements `4g..4g+4` are in bytes `g % p`, from bit `p·(g / p)`.
    panels: Vec<u8>,
}

impl std::fmt::Debug for QuantizedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "QuantizedMatrix({:?}, {}×{})", self.format, self.rows, self.cols)
    }
}

impl QuantizedMatrix {
    /// Reads rows of blocks as GGUF stores them.
    ///
    /// # Panics
    /// If `cols` is not a multiple of the block length, or `bytes` has another size.
    pub fn from_blocks(format: BlockFormat, [rows, cols]: [usize; 2], bytes: &[u8]) -> Self {
        let per_row = cols / format.block_len();
        let num_bytes = rows * per_row * format.block_bytes();
        assert_eq!(bytes.len(), num_bytes, "bytes of {rows}×{cols} values in {format:?}");
        Self::build(format, [rows, cols], |row, index| Block::parse_nth(format, bytes, row * per_row + index))
    }

    /// Quantizes to [`BlockFormat::Q8_0`] or [`BlockFormat::Q4_0`], bit for bit as ggml does.
    ///
    /// # Panics
    /// If the format is another, `cols` is not a multiple of 32, or there are not `rows·cols` values.
    pub fn quantize(format: BlockFormat, [rows, cols]: [usize; 2], values: &[f32]) -> Self {
        assert_eq!(values.len(), rows * cols, "values of {rows}×{cols}");
        Self::build(format, [rows, cols], |row, index| {
            let start = row * cols + index * 32;
            Block::quantize(format, &values[start..start + 32])
        })
    }

    /// Bytes in memory of a matrix of these sizes.
    pub(in crate::kernel) fn bytes_of(format: BlockFormat, [rows, cols]: [usize; 2]) -> usize {
        let layout = format.layout();
        rows.div_ceil(PANEL) * (cols / layout.block * layout.panel_block_bytes())
    }

    fn build(format: BlockFormat, [rows, cols]: [usize; 2], block: impl Fn(usize, usize) -> Block + Sync) -> Self {
        let layout = format.layout();
        assert!(cols.is_multiple_of(layout.block), "a row of {cols} values in blocks of {}", layout.block);
        let panel_bytes = cols / layout.block * layout.panel_block_bytes();
        let mut panels = vec![0; rows.div_ceil(PANEL) * panel_bytes];
        let places = CodePlaces::new(layout);
        panels.par_chunks_mut(panel_bytes.max(1)).enumerate().for_each(|(panel, bytes)| {
            for (index, bytes) in bytes.chunks_exact_mut(layout.panel_block_bytes()).enumerate() {
                for row in panel * PANEL..rows.min((panel + 1) * PANEL) {
                    write_lane(layout, &places, bytes, row % PANEL, &block(row, index));
                }
            }
        });
        Self { format, rows, cols, panel_bytes, panels }
    }

    /// Dequantizes one row into `out`.
    ///
    /// # Panics
    /// If the row does not exist or `out` has another length.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols, "row {row} of {self:?} into {} values", out.len());
        let layout = self.format.layout();
        let places = CodePlaces::new(layout);
        let blocks = self.panel(row / PANEL).chunks_exact(layout.panel_block_bytes());
        for (bytes, out) in blocks.zip(out.chunks_exact_mut(layout.block)) {
            read_lane(layout, &places, bytes, row % PANEL).dequantize(self.format, out);
        }
    }

    /// Dequantizes all rows, row-major.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        if self.cols > 0 {
            out.par_chunks_exact_mut(self.cols).enumerate().for_each(|(row, out)| self.dequantize_row(row, out));
        }
        out
    }

    /// `[rows, cols]`.
    pub fn dims(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// Format of the blocks.
    pub fn format(&self) -> BlockFormat {
        self.format
    }

    /// Bytes in memory.
    pub fn size_bytes(&self) -> usize {
        self.panels.len()
    }

    /// Address range of the panels.
    pub(in crate::kernel) fn as_ptr_range(&self) -> std::ops::Range<*const u8> {
        self.panels.as_ptr_range()
    }

    /// One panel: rows `16·index..16·(index + 1)`.
    pub(super) fn panel(&self, index: usize) -> &[u8] {
        &self.panels[index * self.panel_bytes..(index + 1) * self.panel_bytes]
    }
}

/// Byte and lowest bit of each code of a unit of 32 elements, for each plane, in lane 0. From one lane to the next, bytes
/// are four further.
struct CodePlaces([[(usize, usize); 2]; 32]);

impl CodePlaces {
    fn new(layout: Layout) -> Self {
        let [lower_bits, upper_bits] = layout.bits;
        let place = |number: usize, bits: usize, start: usize| {
            let (group, byte) = (number / 4, number % 4);
            if bits == 0 { (0, 0) } else { (start + group % bits * 64 + byte, group / bits * bits) }
        };
        Self(std::array::from_fn(|number| [place(number, lower_bits, 0), place(number, upper_bits, lower_bits * 64)]))
    }
}

fn write_lane(layout: Layout, places: &CodePlaces, panel: &mut [u8], lane: usize, block: &Block) {
    panel[2 * lane..2 * lane + 2].copy_from_slice(&block.d.to_le_bytes());
    if layout.head_bytes() == 64 {
        panel[32 + 2 * lane..34 + 2 * lane].copy_from_slice(&block.m.to_le_bytes());
    }
    let subs = 32 / layout.sub_block;
    let units = panel[layout.head_bytes()..].chunks_exact_mut(layout.unit_bytes());
    for (unit, bytes) in units.take(layout.block / 32).enumerate() {
        let (scales, codes) = bytes.split_at_mut(subs * layout.scale_bytes());
        for sub in 0..subs {
            let (scale, minimum) = (block.scales[unit * subs + sub], block.minima[unit * subs + sub]);
            let at = sub * layout.scale_bytes() + lane;
            match layout.scales {
                Scales::Plain | Scales::WithMinimum => {}
                Scales::Signed => scales[at] = scale,
                Scales::TwoNibbles => scales[at] = scale | minimum << 4,
                Scales::TwoBytes => (scales[at], scales[at + 16]) = (scale, minimum),
            }
        }
        for ([(low, low_bit), (high, high_bit)], code) in places.0.iter().zip(&block.codes[unit * 32..]) {
            codes[low + 4 * lane] |= (code & mask(layout.bits[0])) << low_bit;
            if layout.bits[1] > 0 {
                codes[high + 4 * lane] |= code >> layout.bits[0] << high_bit;
            }
        }
    }
}

fn read_lane(layout: Layout, places: &CodePlaces, panel: &[u8], lane: usize) -> Block {
    let half = |at: usize| f16::from_le_bytes([panel[at], panel[at + 1]]);
    let m = if layout.head_bytes() == 64 { half(32 + 2 * lane) } else { f16::ZERO };
    let mut block = Block { d: half(2 * lane), m, ..Block::EMPTY };
    let subs = 32 / layout.sub_block;
    let units = panel[layout.head_bytes()..].chunks_exact(layout.unit_bytes());
    for (unit, bytes) in units.take(layout.block / 32).enumerate() {
        let (scales, codes) = bytes.split_at(subs * layout.scale_bytes());
        for sub in 0..subs {
            let at = sub * layout.scale_bytes() + lane;
            let (scale, minimum) = match layout.scales {
                Scales::Plain | Scales::WithMinimum => continue,
                Scales::Signed => (scales[at], 0),
                Scales::TwoNibbles => (scales[at] & 15, scales[at] >> 4),
                Scales::TwoBytes => (scales[at], scales[at + 16]),
            };
            (block.scales[unit * subs + sub], block.minima[unit * subs + sub]) = (scale, minimum);
        }
        for ([(low, low_bit), (high, high_bit)], code) in places.0.iter().zip(&mut block.codes[unit * 32..]) {
            *code = codes[low + 4 * lane] >> low_bit & mask(layout.bits[0]);
            if layout.bits[1] > 0 {
                *code |= (codes[high + 4 * lane] >> high_bit & mask(layout.bits[1])) << layout.bits[0];
            }
        }
    }
    block
}

fn mask(bits: usize) -> u8 {
    u8::MAX >> (8 - bits)
}
