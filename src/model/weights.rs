//! The weights of a model as a source, read from the device one at a time.

use super::{AnyDecoder, CausalLm};
use crate::config::DecoderConfig;
use crate::weights::{Dtype, PIECE_NUMBERS, RawTensor, Sink, TensorId, WeightError, WeightSource};

/// The weights of a float32 model, for writing in bounded memory.
#[derive(Debug, Clone, Copy)]
pub struct DecoderWeights<'a>(&'a AnyDecoder);

impl<'a> DecoderWeights<'a> {
    /// The weights of `model`, which holds float32.
    pub fn new(model: &'a AnyDecoder) -> Self {
        Self(model)
    }
}

impl WeightSource for DecoderWeights<'_> {
    fn config(&self) -> &DecoderConfig {
        CausalLm::config(self.0)
    }

    fn dtype(&self, _id: TensorId) -> Dtype {
        Dtype::Float32
    }

    fn stream(&self, id: TensorId, sink: &mut Sink<'_>) -> Result<(), WeightError> {
        let tensor = self.read(id)?;
        tensor.bytes().chunks(PIECE_NUMBERS * tensor.dtype().size_bytes()).try_for_each(sink)
    }

    fn read(&self, id: TensorId) -> Result<RawTensor, WeightError> {
        Ok(self.0.weight(id))
    }
}
