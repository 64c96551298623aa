//! One block of one row: parsed from a file, dequantized, quantized.

use half::f16;

use super::format::{BlockFormat, Scales};

/// A block, unpacked. The first `block_len` codes are used, and one scale per sub-block.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::kernel) struct Block {
    /// Scale of the block.
    pub d: f16,
    /// Minimum of the block, or the scale of the minima.
    pub m: f16,
    /// Scales of the sub-blocks; bits of an `i8` where they are signed.
    pub scales: [u8; 16],
    /// Minima of the sub-blocks.
    pub minima: [u8; 16],
    pub codes: [u8; 256],
}

impl Block {
    pub(in crate::kernel) const EMPTY: Self =
        Self { d: f16::ZERO, m: f16::ZERO, scales: [0; 16], minima: [0; 16], codes: [0; 256] };

    /// Unpacks a block as a file stores it.
    ///
    /// # Panics
    /// If `bytes` is not one block long.
    pub(in crate::kernel) fn parse(format: BlockFormat, bytes: &[u8]) -> Self {
        assert_eq!(bytes.len(), format.block_bytes(), "bytes of a block of {format:?}");
        let half = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let mut block = Self::EMPTY;
        match format {
            BlockFormat::Q8_0 => {
                block.d = half(0);
                // Two's complement plus 128.
                block.codes.iter_mut().zip(&bytes[2..]).for_each(|(code, byte)| *code = byte ^ 0x80);
            }
            BlockFormat::Q4_0 => {
                block.d = half(0);
                block.set_nibbles(&bytes[2..], 16);
            }
            BlockFormat::Q4_1 => {
                (block.d, block.m) = (half(0), half(2));
                block.set_nibbles(&bytes[4..], 16);
            }
            BlockFormat::Q5_0 => {
                block.d = half(0);
                block.set_nibbles(&bytes[6..], 16);
                block.set_fifth_bits(&bytes[2..6]);
            }
            BlockFormat::Q5_1 => {
                (block.d, block.m) = (half(0), half(2));
                block.set_nibbles(&bytes[8..], 16);
                block.set_fifth_bits(&bytes[4..8]);
            }
            BlockFormat::Q2_K => {
                (block.d, block.m) = (half(80), half(82));
                for (i, byte) in bytes[..16].iter().enumerate() {
                    (block.scales[i], block.minima[i]) = (byte & 15, byte >> 4);
                }
                block.set_pairs_of_bits(&bytes[16..80]);
            }
            BlockFormat::Q3_K => {
                block.d = half(108);
                let packed = &bytes[96..108];
                for i in 0..16 {
                    let low = if i < 8 { packed[i] & 15 } else { packed[i - 8] >> 4 };
                    let high = packed[8 + i % 4] >> (2 * (i / 4)) & 3;
                    block.scales[i] = (low | high << 4).wrapping_sub(32);
                }
                block.set_pairs_of_bits(&bytes[32..96]);
                for (i, code) in block.codes.iter_mut().enumerate() {
                    *code |= (bytes[i % 32] >> (i / 32) & 1) << 2;
                }
            }
            BlockFormat::Q4_K => {
                (block.d, block.m) = (half(0), half(2));
                block.set_six_bit_scales(&bytes[4..16]);
                block.set_nibbles(&bytes[16..], 32);
            }
            BlockFormat::Q5_K => {
                (block.d, block.m) = (half(0), half(2));
                block.set_six_bit_scales(&bytes[4..16]);
                block.set_nibbles(&bytes[48..], 32);
                for (i, code) in block.codes.iter_mut().enumerate() {
                    *code |= (bytes[16 + i % 32] >> (i / 32) & 1) << 4;
                }
            }
            BlockFormat::Q6_K => {
                block.d = half(208);
                block.scales.copy_from_slice(&bytes[192..208]);
                for (i, code) in block.codes.iter_mut().enumerate() {
                    let (part, row, column) = (i / 128, i % 128 / 32, i % 32);
                    let low = bytes[part * 64 + row % 2 * 32 + column] >> (4 * (row / 2)) & 15;
                    let high = bytes[128 + part * 32 + column] >> (2 * row) & 3;
                    *code = low | high << 4;
                }
            }
        }
        block
    }

    /// [`parse`](Self::parse) of block `index` of several.
    ///
    /// # Panics
    /// If there are fewer.
    pub(in crate::kernel) fn parse_nth(format: BlockFormat, blocks: &[u8], index: usize) -> Self {
        let len = format.block_bytes();
        Self::parse(format, &blocks[index * len..(index + 1) * len])
    }

    /// Per `run` bytes: their low nibbles, then their high nibbles.
    fn set_nibbles(&mut self, bytes: &[u8], run: usize) {
        for (codes, bytes) in self.codes.chunks_exact_mut(2 * run).zip(bytes.chunks_exact(run)) {
            let (low, high) = codes.split_at_mut(run);
            low.iter_mut().zip(bytes).for_each(|(code, byte)| *code = byte & 15);
            high.iter_mut().zip(bytes).for_each(|(code, byte)| *code = byte >> 4);
        }
    }

    fn set_fifth_bits(&mut self, bytes: &[u8]) {
        for (i, code) in self.codes[..32].iter_mut().enumerate() {
            *code |= (bytes[i / 8] >> (i % 8) & 1) << 4;
        }
    }

    /// 32 bytes per half block; each byte holds two bits for each run of 32 elements.
    fn set_pairs_of_bits(&mut self, bytes: &[u8]) {
        for (i, code) in self.codes.iter_mut().enumerate() {
            *code = bytes[i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32)) & 3;
        }
    }

    /// Eight scales and eight minima of six bits in twelve bytes.
    fn set_six_bit_scales(&mut self, bytes: &[u8]) {
        for i in 0..4 {
            (self.scales[i], self.minima[i]) = (bytes[i] & 63, bytes[i + 4] & 63);
            self.scales[i + 4] = bytes[i + 8] & 15 | bytes[i] >> 6 << 4;
            self.minima[i + 4] = bytes[i + 8] >> 4 | bytes[i + 4] >> 6 << 4;
        }
    }

    /// Dequantizes the block.
    ///
    /// # Panics
    /// If `out` is not one block long.
    pub(in crate::kernel) fn dequantize(&self, format: BlockFormat, out: &mut [f32]) {
        let layout = format.layout();
        assert_eq!(out.len(), layout.block, "values of a block of {format:?}");
        let (d, m) = (self.d.to_f32(), self.m.to_f32());
        for (sub_block, out) in out.chunks_exact_mut(layout.sub_block).enumerate() {
            let byte = self.scales[sub_block];
            let (scale, minimum) = match layout.scales {
                Scales::Plain => (d, 0.0),
                Scales::WithMinimum => (d, m),
                Scales::Signed => (d * f32::from(byte as i8), 0.0),
                Scales::TwoBytes | Scales::TwoNibbles => {
                    (d * f32::from(byte), -(m * f32::from(self.minima[sub_block])))
                }
            };
            let codes = &self.codes[sub_block * layout.sub_block..];
            for (out, code) in out.iter_mut().zip(codes) {
                *out = scale * (f32::from(*code) - f32::from(layout.offset)) + minimum;
            }
        }
    }

    /// Quantizes 32 values.
    ///
    /// # Panics
    /// If the format is neither [`BlockFormat::Q8_0`] nor [`BlockFormat::Q4_0`].
    pub(in crate::kernel) fn quantize(format: BlockFormat, values: &[f32]) -> Self {
        match format {
            BlockFormat::Q8_0 => Self::quantize_q8_0(values),
            BlockFormat::Q4_0 => Self::quantize_q4_0(values),
            other => panic!("values are quantized to Q8_0 or Q4_0, not to {other:?}"),
        }
    }

    /// Quantizes 32 values to [`BlockFormat::Q8_0`]: nearest of `d·(−127..=127)`, ties away from zero.
    fn quantize_q8_0(values: &[f32]) -> Self {
        let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        let d = largest / 127.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let mut block = Self { d: f16::from_f32(d), ..Self::EMPTY };
        for (code, value) in block.codes.iter_mut().zip(values) {
            *code = (value * inverse).round() as i8 as u8 ^ 0x80;
        }
        block
    }

    /// Quantizes 32 values to [`BlockFormat::Q4_0`]: the value of largest magnitude maps to −8.
    fn quantize_q4_0(values: &[f32]) -> Self {
        let further = |far: f32, value: &f32| if value.abs() > far.abs() { *value } else { far };
        let d = values.iter().fold(0.0, further) / -8.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let mut block = Self { d: f16::from_f32(d), ..Self::EMPTY };
        for (code, value) in block.codes.iter_mut().zip(values) {
            *code = ((value * inverse + 8.5) as i8).clamp(0, 15) as u8;
        }
        block
    }
}
