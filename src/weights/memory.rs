//! Weights held in memory: a model taken apart, or a source built by a test.

use std::collections::HashMap;

use super::{Dtype, RawTensor, TensorId, WeightError, WeightSource};
use crate::config::DecoderConfig;

/// All weights of one decoder, in memory.
#[derive(Debug, Clone)]
pub struct MemoryWeights {
    config: DecoderConfig,
    tensors: HashMap<TensorId, RawTensor>,
}

impl MemoryWeights {
    /// Takes each weight that `config` calls for from `tensor`.
    ///
    /// # Panics
    /// If `tensor` gives a shape other than [`TensorId::shape`].
    pub fn new(config: DecoderConfig, mut tensor: impl FnMut(TensorId) -> RawTensor) -> Self {
        let tensors = TensorId::all(&config)
            .into_iter()
            .map(|id| {
                let tensor = tensor(id);
                assert_eq!(tensor.shape(), id.shape(&config), "shape of {id:?}");
                (id, tensor)
            })
            .collect();
        Self { config, tensors }
    }
}

impl WeightSource for MemoryWeights {
    fn config(&self) -> &DecoderConfig {
        &self.config
    }

    fn dtype(&self, id: TensorId) -> Dtype {
        self.tensors[&id].dtype()
    }

    fn read(&self, id: TensorId) -> Result<RawTensor, WeightError> {
        Ok(self.tensors[&id].clone())
    }
}
