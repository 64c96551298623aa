//! Blocks as words of 32 bits and float32 scales, for devices whose kernels read no bytes and no float16.

use super::{Block, BlockFormat, Layout, Scales};

/// A matrix in blocks. Element `i` is in row-major order, sub-block `s` holds the elements from `s·sub_block`.
///
/// `codes` has three parts, each in the order of the elements and from the lowest bit of a word on: the lower bits of all codes;
/// the upper bits, from word `upper` on; 16 bits per sub-block, from word `of_sub_blocks` on, with the byte of the scale in the
/// lower half and that of the minimum in the upper half. Formats without upper bits or without such bytes lack their part.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::kernel) struct BlockWords {
    pub codes: Vec<u32>,
    /// Per block the scale, then the minimum if the format has one.
    pub scales: Vec<f32>,
}

/// The first words of the parts of [`BlockWords::codes`], and the sizes of both vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kernel) struct WordPlaces {
    pub upper: usize,
    pub of_sub_blocks: usize,
    pub num_codes: usize,
    pub num_scales: usize,
}

impl WordPlaces {
    /// The places in a matrix of `len` elements.
    pub fn new(layout: Layout, len: usize) -> Self {
        let [lower_bits, upper_bits] = layout.bits;
        let upper = len * lower_bits / 32;
        let of_sub_blocks = upper + len * upper_bits / 32;
        let num_sub_blocks = if layout.scales.are_per_sub_block() { len / layout.sub_block } else { 0 };
        Self {
            upper,
            of_sub_blocks,
            num_codes: of_sub_blocks + num_sub_blocks / 2,
            num_scales: len / layout.block * layout.scales.num_halves(),
        }
    }

    /// Bytes of both vectors.
    pub fn size_bytes(&self) -> usize {
        4 * (self.num_codes + self.num_scales)
    }
}

impl BlockWords {
    /// Packs the blocks of a matrix of `len` elements.
    ///
    /// # Panics
    /// If their number is another.
    pub fn pack(format: BlockFormat, len: usize, blocks: impl Iterator<Item = Block>) -> Self {
        let layout = format.layout();
        let [lower_bits, upper_bits] = layout.bits;
        let places = WordPlaces::new(layout, len);
        let (mut codes, mut scales) = (vec![0; places.num_codes], Vec::with_capacity(places.num_scales));
        let mut first = 0;
        for block in blocks {
            assert!(first + layout.block <= len, "{len} elements take fewer blocks in {format:?}");
            for (index, code) in block.codes[..layout.block].iter().enumerate() {
                let code = u32::from(*code);
                put(&mut codes, lower_bits * (first + index), code & ((1 << lower_bits) - 1));
                if upper_bits > 0 {
                    put(&mut codes[places.upper..], upper_bits * (first + index), code >> lower_bits);
                }
            }
            if layout.scales.are_per_sub_block() {
                for sub_block in 0..layout.block / layout.sub_block {
                    let bytes = u32::from(block.scales[sub_block]) | u32::from(block.minima[sub_block]) << 8;
                    put(&mut codes[places.of_sub_blocks..], 16 * (first / layout.sub_block + sub_block), bytes);
                }
            }
            scales.extend(&[block.d.to_f32(), block.m.to_f32()][..layout.scales.num_halves()]);
            first += layout.block;
        }
        assert_eq!(first, len, "{len} elements take more blocks in {format:?}");
        Self { codes, scales }
    }
}

/// Sets bits that are zero, from bit `at` on, all in one word.
fn put(words: &mut [u32], at: usize, bits: u32) {
    words[at / 32] |= bits << (at % 32);
}

impl Scales {
    /// Whether each sub-block has bytes of its own.
    pub const fn are_per_sub_block(self) -> bool {
        matches!(self, Self::Signed | Self::TwoBytes | Self::TwoNibbles)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::blocks::fixture::blocks;

    /// Element `i`, as the kernels read it.
    fn value(words: &BlockWords, format: BlockFormat, len: usize, i: usize) -> f32 {
        let (layout, places) = (format.layout(), WordPlaces::new(format.layout(), len));
        let get = |from: usize, bits: usize, index: usize| {
            words.codes[from + bits * index / 32] >> (bits * index % 32) & ((1 << bits) - 1)
        };
        let [lower_bits, upper_bits] = layout.bits;
        let mut code = get(0, lower_bits, i);
        if upper_bits > 0 {
            code |= get(places.upper, upper_bits, i) << lower_bits;
        }
        let halves = &words.scales[i / layout.block * layout.scales.num_halves()..];
        let (mut scale, mut minimum) = (halves[0], 0.0);
        if layout.scales == Scales::WithMinimum {
            minimum = halves[1];
        }
        if layout.scales.are_per_sub_block() {
            let bytes = get(places.of_sub_blocks, 16, i / layout.sub_block);
            if layout.scales == Scales::Signed {
                scale *= f32::from(bytes as u8 as i8);
            } else {
                scale *= (bytes & 255) as f32;
                minimum = -(halves[1] * (bytes >> 8) as f32);
            }
        }
        scale * (code as f32 - f32::from(layout.offset)) + minimum
    }

    #[test]
    fn words_have_the_values_of_the_blocks() {
        for format in BlockFormat::ALL {
            let (len, bytes) = (6 * 256, blocks(format, 6 * 256, 3));
            let parsed = || bytes.chunks_exact(format.block_bytes()).map(|bytes| Block::parse(format, bytes));
            let mut expected = vec![0.0; len];
            parsed()
                .zip(expected.chunks_exact_mut(format.block_len()))
                .for_each(|(block, out)| block.dequantize(format, out));
            let words = BlockWords::pack(format, len, parsed());
            let places = WordPlaces::new(format.layout(), len);
            assert_eq!((words.codes.len(), words.scales.len()), (places.num_codes, places.num_scales));
            let found: Vec<f32> = (0..len).map(|i| value(&words, format, len, i)).collect();
            assert_eq!(found, expected, "{format:?}");
        }
    }

    #[test]
    fn words_take_little_more_memory_than_the_file() {
        for format in BlockFormat::ALL {
            let file = 4096 / format.block_len() * format.block_bytes();
            let ratio = WordPlaces::new(format.layout(), 4096).size_bytes() as f64 / file as f64;
            assert!((1.0..=1.25).contains(&ratio), "{format:?}: {ratio}");
        }
    }

    #[test]
    #[should_panic(expected = "64 elements take more blocks in Q8_0")]
    fn too_few_blocks_are_refused() {
        BlockWords::pack(BlockFormat::Q8_0, 64, std::iter::once(Block::EMPTY));
    }
}
