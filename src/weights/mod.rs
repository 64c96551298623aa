//! Named weights plus a config, wherever they are: in files, in memory, or grown from another source.
//!
//! [`WeightSource`] is the one door between checkpoints, growth and models. A source answers for exactly
//! the weights that its config calls for ([`TensorId::all`]), each with the shape that the config gives.

pub mod commit;
mod error;
pub mod hf;
mod json;
pub mod memory;
pub mod safetensors;
mod tensor;
mod tensor_id;

pub use error::{ErrorKind, WeightError};
pub use hf::{HfDirectory, write_hf_directory};
pub use memory::MemoryWeights;
pub use tensor::{Dtype, RawTensor};
pub use tensor_id::{LayerTensor, Projection, TensorId};

use serde::Serialize;

use crate::config::DecoderConfig;

/// Named tensors and the shape of the decoder they make.
pub trait WeightSource {
    /// The decoder that these weights make.
    fn config(&self) -> &DecoderConfig;

    /// The type that [`read`](Self::read) will give for this weight, without reading it.
    ///
    /// # Panics
    /// If `id` is not in [`TensorId::all`] of [`config`](Self::config).
    fn dtype(&self, id: TensorId) -> Dtype;

    /// The weight, with the shape [`TensorId::shape`] of [`config`](Self::config).
    ///
    /// # Errors
    /// [`WeightError::Io`] if the file can no longer be read.
    ///
    /// # Panics
    /// If `id` is not in [`TensorId::all`] of [`config`](Self::config).
    fn read(&self, id: TensorId) -> Result<RawTensor, WeightError>;

    /// Where this weight came from, from the root checkpoint to here.
    fn lineage(&self, id: TensorId) -> Lineage {
        Lineage { root: Some(id), steps: Vec::new() }
    }
}

impl<S: WeightSource + ?Sized> WeightSource for &S {
    fn config(&self) -> &DecoderConfig {
        (**self).config()
    }

    fn dtype(&self, id: TensorId) -> Dtype {
        (**self).dtype(id)
    }

    fn read(&self, id: TensorId) -> Result<RawTensor, WeightError> {
        (**self).read(id)
    }

    fn lineage(&self, id: TensorId) -> Lineage {
        (**self).lineage(id)
    }
}

/// Where a weight came from: the weight of the root checkpoint it started as, and what was done to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lineage {
    /// The weight of the root checkpoint; `None` for a weight that growth drew afresh.
    pub root: Option<TensorId>,
    /// What each growth did, oldest first, in words: `layer 3 of 8`, `noise 0.01`, `router normal(0.02)`.
    pub steps: Vec<String>,
}
