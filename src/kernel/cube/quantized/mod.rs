//! Quantized matrices on devices of CubeCL: products read the blocks, a few rows of activations at a time.
//!
//! Activations are not rounded, and sums are in float32.

mod product;
mod stack;
mod values;

use std::ops::Range;
use std::sync::Arc;

use burn::backend::{Cube, DType};
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_cubecl::tensor::CubeTensor;

pub use self::product::{COLUMNS, CUBE_UNITS, MAX_TILE, TileRows, multiply_tile};
pub use self::stack::WordStack;
pub use self::values::Matrices;
use super::{primitive, public};
use crate::kernel::blocks::{Block, BlockFormat, BlockWords, WordPlaces};

/// The words of [`BlockWords`] on a device, of one matrix or of several of one shape, one after another.
#[derive(Debug)]
pub struct Words {
    pub format: BlockFormat,
    /// Elements.
    pub len: usize,
    /// Int32.
    pub codes: CubeTensor,
    /// Float32.
    pub scales: CubeTensor,
}

impl Words {
    pub fn places(&self) -> WordPlaces {
        WordPlaces::new(self.format.layout(), self.len)
    }

    /// Copies matrices of one format.
    fn of(matrices: &[WordMatrix]) -> Self {
        let codes = [Part::Lower, Part::Upper, Part::OfSubBlocks]
            .into_iter()
            .flat_map(|part| matrices.iter().map(move |matrix| (ints(&matrix.words.codes), matrix.range(part))));
        let codes = codes.filter(|(_, range)| !range.is_empty()).map(|(codes, range)| codes.slice([range]));
        let scales =
            matrices.iter().map(|matrix| public::<1>(matrix.words.scales.clone()).slice([matrix.range(Part::Scales)]));
        Self {
            format: matrices[0].words.format,
            len: matrices.iter().map(WordMatrix::len).sum(),
            codes: int_primitive(Tensor::cat(codes.collect(), 0)),
            scales: primitive(Tensor::cat(scales.collect(), 0)),
        }
    }
}

/// The parts of [`Words`], each in the order of the elements.
#[derive(Debug, Clone, Copy)]
enum Part {
    Lower,
    Upper,
    OfSubBlocks,
    Scales,
}

impl Part {
    /// First and number of words in a matrix.
    const fn first_and_len(self, places: &WordPlaces) -> (usize, usize) {
        match self {
            Self::Lower => (0, places.upper),
            Self::Upper => (places.upper, places.of_sub_blocks - places.upper),
            Self::OfSubBlocks => (places.of_sub_blocks, places.num_codes - places.of_sub_blocks),
            Self::Scales => (0, places.num_scales),
        }
    }
}

/// A matrix `[out, in]` in blocks. Clones share them.
#[derive(Debug, Clone)]
pub struct WordMatrix {
    pub(super) words: Arc<Words>,
    /// The place of its first element among those of the words.
    pub(super) first: usize,
    pub(super) shape: [usize; 2],
}

impl WordMatrix {
    /// Copies blocks, each given by its index, to a device of CubeCL.
    ///
    /// # Panics
    /// If the elements are no whole blocks.
    pub fn new(format: BlockFormat, shape: [usize; 2], block: impl Fn(usize) -> Block + Sync, device: &Device) -> Self {
        let len = shape.iter().product();
        let BlockWords { codes, scales } = BlockWords::pack(format, len, block);
        let device = device.clone().without_autodiff();
        let scales_shape = [scales.len()];
        let codes = int_tensor(codes.into_iter().map(u32::cast_signed).collect(), &device);
        let scales = Tensor::<1>::from_data(TensorData::new(scales, scales_shape), (&device, DType::F32));
        Self { words: Arc::new(Words { format, len, codes, scales: primitive(scales) }), first: 0, shape }
    }

    /// The matrix on another device of CubeCL, without those beside it.
    pub fn to_device(&self, device: &Device) -> Self {
        let device = device.clone().without_autodiff();
        if self.len() == 0 {
            return Self::new(self.words.format, self.shape, |_| unreachable!("an empty matrix has no block"), &device);
        }
        let Words { format, len, codes, scales } = Words::of(std::slice::from_ref(self));
        let codes = int_primitive(ints(&codes).to_device(&device));
        let scales = primitive(public::<1>(scales).to_device(&device));
        Self { words: Arc::new(Words { format, len, codes, scales }), first: 0, shape: self.shape }
    }

    /// `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        self.shape
    }

    /// Bytes of a matrix of this format and shape.
    pub fn bytes_of(format: BlockFormat, shape: [usize; 2]) -> usize {
        WordPlaces::new(format.layout(), shape.iter().product()).size_bytes()
    }

    /// Whether both are the same words.
    pub fn shares_memory(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.words, &other.words) && self.first == other.first
    }

    fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Where a part of the matrix is in the codes or scales.
    fn range(&self, part: Part) -> Range<usize> {
        let layout = self.words.format.layout();
        let [before, own] = [self.first, self.len()].map(|len| part.first_and_len(&WordPlaces::new(layout, len)).1);
        let first = part.first_and_len(&self.words.places()).0 + before;
        first..first + own
    }
}

fn ints(x: &CubeTensor) -> Tensor<1, Int> {
    Tensor::from_primitive::<Cube>(x.clone())
}

fn int_primitive(x: Tensor<1, Int>) -> CubeTensor {
    x.try_into_primitive::<Cube>().expect("a device of CubeCL")
}

fn int_tensor(values: Vec<i32>, device: &Device) -> CubeTensor {
    let len = values.len();
    int_primitive(Tensor::from_data(TensorData::new(values, [len]), (device, DType::I32)))
}
