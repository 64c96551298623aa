//! Matrices in one buffer, where a kernel finds each by its index.

use std::sync::Arc;

use burn::backend::TensorMetadata;
use burn_cubecl::tensor::CubeTensor;

use super::{WordMatrix, Words, int_tensor, public};

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
    /// Moves the matrices into the same words, if they are not there yet. None if they are empty, or differ in shape or format.
    pub fn new(mut matrices: Vec<&mut WordMatrix>) -> Option<Self> {
        let first = matrices.first()?;
        let (shape, format, size) = (first.shape, first.words.format, first.len());
        let is_alike = |matrix: &&mut WordMatrix| matrix.shape == shape && matrix.words.format == format;
        if size == 0 || !matrices.iter().all(is_alike) {
            return None;
        }
        if !matrices.iter().all(|matrix| Arc::ptr_eq(&matrix.words, &first.words)) {
            let mut distinct = Vec::<WordMatrix>::new();
            let place_of = |matrix: &&mut WordMatrix| {
                let known = distinct.iter().position(|known| known.shares_memory(matrix));
                known.unwrap_or_else(|| {
                    distinct.push(WordMatrix::clone(matrix));
                    distinct.len() - 1
                })
            };
            let places: Vec<usize> = matrices.iter().map(place_of).collect();
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
