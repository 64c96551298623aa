//! Blocks as words of 32 bits and float32 scales, for devices whose kernels read no bytes and no float16.

use rayon::prelude::*;

use super::{Block, BlockFormat, Layout, Scales};

/// Blocks that a task packs.
const BLOCKS_PER_TASK: usize = 256;

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
    /// Packs the blocks of a matrix of `len` elements, each given by its index.
    ///
    /// # Panics
    /// If the elements are no whole blocks.
    pub fn pack(format: BlockFormat, len: usize, block: impl Fn(usize) -> Block + Sync) -> Self {
        let layout = format.layout();
        assert!(len.is_multiple_of(layout.block), "{len} elements in blocks of {format:?}");
        let (places, of_task) = (WordPlaces::new(layout, len), WordPlaces::new(layout, BLOCKS_PER_TASK * layout.block));
        let (mut codes, mut scales) = (vec![0; places.num_codes], vec![0.0; places.num_scales]);
        let (lower, rest) = codes.split_at_mut(places.upper);
        let (upper, of_sub_blocks) = rest.split_at_mut(places.of_sub_blocks - places.upper);
        let num_blocks = len / layout.block;
        let num_tasks = num_blocks.div_ceil(BLOCKS_PER_TASK);
        let tasks = (
            split(lower, of_task.upper, num_tasks),
            split(upper, of_task.of_sub_blocks - of_task.upper, num_tasks),
            split(of_sub_blocks, of_task.num_codes - of_task.of_sub_blocks, num_tasks),
            split(&mut scales, of_task.num_scales, num_tasks),
        );
        tasks.into_par_iter().enumerate().for_each(|(task, (lower, upper, of_sub_blocks, scales))| {
            let first = task * BLOCKS_PER_TASK;
            for index in first..num_blocks.min(first + BLOCKS_PER_TASK) {
                let (place, block) = (index - first, block(index));
                put_codes(layout, place, &block, [lower, upper]);
                if layout.scales.are_per_sub_block() {
                    put_sub_blocks(layout, place, &block, of_sub_blocks);
                }
                let halves = layout.scales.num_halves();
                scales[place * halves..(place + 1) * halves]
                    .copy_from_slice(&[block.d.to_f32(), block.m.to_f32()][..halves]);
            }
        });
        Self { codes, scales }
    }
}

/// The first `len` elements for each of `num` tasks in turn; the last has those that are left.
fn split<T>(mut all: &mut [T], len: usize, num: usize) -> Vec<&mut [T]> {
    (0..num).map(|_| all.split_off_mut(..len.min(all.len())).expect("in range")).collect()
}

/// The lower and upper bits of the codes of a block, the `place`-th of its task.
fn put_codes(layout: Layout, place: usize, block: &Block, [lower, upper]: [&mut [u32]; 2]) {
    let [lower_bits, upper_bits] = layout.bits;
    for (index, code) in (place * layout.block..).zip(&block.codes[..layout.block]) {
        let code = u32::from(*code);
        put(lower, lower_bits * index, code & ((1 << lower_bits) - 1));
        if upper_bits > 0 {
            put(upper, upper_bits * index, code >> lower_bits);
        }
    }
}

/// The bytes of the sub-blocks of a block, the `place`-th of its task.
fn put_sub_blocks(layout: Layout, place: usize, block: &Block, words: &mut [u32]) {
    let num_sub_blocks = layout.block / layout.sub_block;
    for sub_block in 0..num_sub_blocks {
        let bytes = u32::from(block.scales[sub_block]) | u32::from(block.minima[sub_block]) << 8;
        put(words, 16 * (place * num_sub_blocks + sub_block), bytes);
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
            // Two tasks and a part of one.
            let len = 550 * format.block_len();
            let bytes = blocks(format, len, 3);
            let block = |index| Block::parse_nth(format, &bytes, index);
            let mut expected = vec![0.0; len];
            let places = expected.chunks_exact_mut(format.block_len());
            places.enumerate().for_each(|(index, out)| block(index).dequantize(format, out));
            let words = BlockWords::pack(format, len, block);
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
    #[should_panic(expected = "65 elements in blocks of Q8_0")]
    fn a_part_of_a_block_is_refused() {
        BlockWords::pack(BlockFormat::Q8_0, 65, |_| Block::EMPTY);
    }
}
