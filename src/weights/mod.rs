//! Named weights with a config: in files, in memory, or grown from another source.
//!
//! Checkpoints, growth and models meet in one trait, [`WeightSource`]. A source has exactly the weights that its config
//! calls for ([`TensorId::all`]), each with the shape that follows from the config.

mod chunks;
mod error;
mod ggml_type;
mod lineage;
mod low_rank;
pub mod memory;
mod random_stream;
mod rounding;
mod tensor;
mod tensor_id;
mod tensor_name;

pub use chunks::{Chunks, PIECE_NUMBERS};
pub use error::WeightError;
pub(crate) use ggml_type::GgmlKind;
pub use ggml_type::GgmlType;
pub use lineage::{Like, Recipe, RouterInit, Step};
pub use low_rank::LowRank;
pub use memory::MemoryWeights;
pub(crate) use random_stream::split_mix;
pub use random_stream::{Purpose, RandomStream};
pub(crate) use rounding::Rounding;
pub use rounding::{Finite, Strictness};
pub use tensor::{Dtype, RawTensor};
pub(crate) use tensor::{cast_bytes, round_f32, widen_to_f32};
pub use tensor_id::{LayerTensor, Projection, TensorId};
pub use tensor_name::UnknownTensor;
pub(crate) use tensor_name::indexed;

use crate::config::DecoderConfig;

/// The weights of one decoder.
pub trait WeightSource {
    /// The decoder that the weights belong to.
    fn config(&self) -> &DecoderConfig;

    /// Number format of a weight, without reading it.
    ///
    /// # Panics
    /// If `id` is not in [`TensorId::all`] of [`config`](Self::config).
    fn dtype(&self, id: TensorId) -> Dtype;

    /// Streams the bytes of a weight to `sink`: row-major, little-endian, in pieces of [`PIECE_NUMBERS`] numbers of
    /// [`dtype`](Self::dtype), the last of which may be shorter. Memory is bounded whatever the size of the weight.
    /// [`Chunks`] cuts runs of other lengths into such pieces.
    ///
    /// # Errors
    /// [`WeightError::File`] if a file can no longer be read; the error of `sink`.
    ///
    /// # Panics
    /// If `id` is not in [`TensorId::all`] of [`config`](Self::config).
    fn stream(&self, id: TensorId, sink: &mut Sink<'_>) -> Result<(), WeightError>;

    /// A whole weight, with the shape [`TensorId::shape`] of [`config`](Self::config).
    ///
    /// # Errors
    /// As [`stream`](Self::stream).
    ///
    /// # Panics
    /// As [`stream`](Self::stream).
    fn read(&self, id: TensorId) -> Result<RawTensor, WeightError> {
        let (dtype, shape) = (self.dtype(id), id.shape(self.config()));
        let mut bytes = Vec::with_capacity(shape.iter().product::<usize>() * dtype.size_bytes());
        self.stream(id, &mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(RawTensor::new(dtype, shape, bytes))
    }

    /// The type of [`packed`](Self::packed) blocks, without reading them; `None` if the weight is not stored in blocks.
    ///
    /// # Panics
    /// As [`stream`](Self::stream).
    fn packed_type(&self, id: TensorId) -> Option<GgmlType> {
        let _ = id;
        None
    }

    /// A weight as blocks of integers, if it is stored as such: whole rows, in the order of [`TensorId::shape`].
    ///
    /// # Errors
    /// As [`stream`](Self::stream).
    ///
    /// # Panics
    /// As [`stream`](Self::stream).
    fn packed(&self, id: TensorId) -> Result<Option<PackedTensor>, WeightError> {
        let _ = id;
        Ok(None)
    }

    /// How this weight is made, from the root checkpoint to here.
    fn lineage(&self, id: TensorId) -> Recipe {
        Recipe::of(id)
    }
}

/// A quantized weight as stored in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedTensor {
    /// Format of the blocks.
    pub ty: GgmlType,
    /// The blocks, row by row.
    pub bytes: Vec<u8>,
}

/// Receives the pieces of a streamed weight. An error ends the stream.
pub type Sink<'a> = dyn FnMut(&[u8]) -> Result<(), WeightError> + 'a;

/// Pointers to a source are sources.
macro_rules! forward {
    ($($pointer:ty),*) => {
        $(impl<S: WeightSource + ?Sized> WeightSource for $pointer {
            fn config(&self) -> &DecoderConfig {
                (**self).config()
            }

            fn dtype(&self, id: TensorId) -> Dtype {
                (**self).dtype(id)
            }

            fn stream(&self, id: TensorId, sink: &mut Sink<'_>) -> Result<(), WeightError> {
                (**self).stream(id, sink)
            }

            fn read(&self, id: TensorId) -> Result<RawTensor, WeightError> {
                (**self).read(id)
            }

            fn packed_type(&self, id: TensorId) -> Option<GgmlType> {
                (**self).packed_type(id)
            }

            fn packed(&self, id: TensorId) -> Result<Option<PackedTensor>, WeightError> {
                (**self).packed(id)
            }

            fn lineage(&self, id: TensorId) -> Recipe {
                (**self).lineage(id)
            }
        })*
    };
}

forward!(&S, Box<S>);
