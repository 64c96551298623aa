//! Matrices in one buffer, where a kernel finds each by its index.

use std::sync::Arc;

use burn::backend::TensorMetadata;
use burn_cubecl::tensor::CubeTensor;

use super::product::MAX_ROWS;
use super::{WordMatrix, Words, int_tensor, public};
use crate::kernel::blocks::WordPlaces;

/// Matrices `[out, in]` of one format in the same words.
#[derive(Debug, Clone)]
pub struct WordStack {
    pub words: Arc<Words>,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// The place of each matrix among those of the words, int32. Matrices that share memory have one place.
    pub places: CubeTensor,
}

impl WordStack {
    /// Moves the matrices into the same words, if they are not there yet.
    ///
    /// None if they are empty, or differ in shape or format, or if those that differ have more than [`u32::MAX`] elements or more
    /// words than a buffer of their device has room for: kernels index the elements of the whole stack with 32 bits.
    pub fn new(mut matrices: Vec<&mut WordMatrix>) -> Option<Self> {
        let first = matrices.first()?;
        let (shape, format, size) = (first.shape, first.words.format, first.len());
        let is_alike = |matrix: &&mut WordMatrix| matrix.shape == shape && matrix.words.format == format;
        if size == 0 || !matrices.iter().all(is_alike) {
            return None;
        }
        let fits = |len: usize| {
            let places = WordPlaces::new(format.layout(), len);
            is_one_buffer(len, places.num_codes.max(places.num_scales), largest_buffer(&first.words.codes))
        };
        if matrices.iter().all(|matrix| Arc::ptr_eq(&matrix.words, &first.words)) {
            if !fits(first.words.len) {
                return None;
            }
        } else {
            let mut distinct = Vec::<WordMatrix>::new();
            let place_of = |matrix: &&mut WordMatrix| {
                let known = distinct.iter().position(|known| known.shares_memory(matrix));
                known.unwrap_or_else(|| {
                    distinct.push(WordMatrix::clone(matrix));
                    distinct.len() - 1
                })
            };
            let places: Vec<usize> = matrices.iter().map(place_of).collect();
            if !fits(distinct.len() * size) {
                return None;
            }
            let words = Arc::new(Words::of(&distinct));
            for (matrix, place) in matrices.iter_mut().zip(places) {
                **matrix = WordMatrix { words: words.clone(), first: place * size, shape };
            }
        }
        let words = matrices[0].words.clone();
        let device = public::<1>(words.scales.clone()).device();
        let places = matrices.iter().map(|matrix| i32::try_from(matrix.first / size).expect("fits in memory"));
        Some(Self { places: int_tensor(places.collect(), &device), words, shape })
    }

    /// Whether products of so many rows in all read the blocks of the matrices that they need, and not a copy of all in float32.
    pub fn reads_blocks(&self, num_rows: usize) -> bool {
        num_rows <= MAX_ROWS * self.places.shape().num_elements()
    }

    /// Whether all values in float32 are one buffer that kernels can index.
    pub fn can_dequantize(&self) -> bool {
        let [rows, width] = self.shape;
        let len = self.places.shape().num_elements() * rows * width;
        is_one_buffer(len, len, largest_buffer(&self.words.codes))
    }

    /// All values, in float32: `[matrices, out, in]`.
    pub fn dequantize(&self) -> CubeTensor {
        let [rows, width] = self.shape;
        let of_matrices = [self.words.len / (rows * width), rows * width];
        let all = WordMatrix { words: self.words.clone(), first: 0, shape: of_matrices };
        let values = all.rows(self.places.clone());
        let num_matrices = values.shape()[0];
        burn_cubecl::ops::reshape(values, [num_matrices, rows, width].into())
    }
}

/// Bytes of the largest buffer of the device of a tensor.
fn largest_buffer(x: &CubeTensor) -> u64 {
    x.client.properties().memory.max_page_size
}

/// Whether so many elements, in so many words of 32 bits, can be in one buffer of up to `max_bytes`, and have indices of 32 bits.
fn is_one_buffer(num_elements: usize, num_words: usize, max_bytes: u64) -> bool {
    u32::try_from(num_elements).is_ok() && 4 * num_words as u64 <= max_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_one_buffer_if_its_indices_have_32_bits_and_the_device_has_room() {
        let most = u32::MAX as usize;
        assert!(is_one_buffer(most, most / 8, u64::MAX));
        assert!(!is_one_buffer(most + 1, most / 8, u64::MAX));
        assert!(is_one_buffer(1000, 250, 1000) && !is_one_buffer(1000, 251, 1000));
        // An up projection of Mixtral 8x22B in float32, on a GPU of 80 GB, of which CubeCL allots a quarter at once, and on a
        // device with buffers of 2 GiB.
        let len = 8 * 16384 * 6144;
        assert!(is_one_buffer(len, len, 20_000_000_000) && !is_one_buffer(len, len, 1 << 31));
    }
}
