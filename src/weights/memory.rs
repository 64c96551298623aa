//! Weights in memory: of a model, or made by a test.

use std::collections::HashMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use crate::config::DecoderConfig;
use crate::weights::{Dtype, PIECE_NUMBERS, RawTensor, Sink, TensorId, WeightError, WeightSource};

/// All weights of one decoder, in memory.
#[derive(Debug, Clone)]
pub struct MemoryWeights {
    config: DecoderConfig,
    tensors: HashMap<TensorId, RawTensor>,
}

impl MemoryWeights {
    /// Calls `tensor` for each weight that `config` calls for.
    ///
    /// # Panics
    /// If `tensor` returns another shape than [`TensorId::shape`].
    pub fn new(config: DecoderConfig, mut tensor: impl FnMut(TensorId) -> RawTensor) -> Self {
        let tensors = TensorId::all(&config)
            .into_iter()
            .map(|id| {
                let tensor = tensor(id);
                assert_eq!(tensor.shape(), id.shape(&config), "shape of {id}");
                (id, tensor)
            })
            .collect();
        Self { config, tensors }
    }

    /// An untrained model in float32: matrices drawn from `N(0, std²)`, norm gains 1. Each weight has its own random
    /// stream, so the numbers do not depend on the order of drawing.
    pub fn untrained(config: DecoderConfig, std: f32, seed: u64) -> Self {
        let ids = TensorId::all(&config);
        let streams: HashMap<TensorId, u64> = ids.into_iter().zip(0..).collect();
        let shapes = config.clone();
        Self::new(config, |id| {
            let shape = id.shape(&shapes);
            let len = shape.iter().product();
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(streams[&id]);
            let mut draw = || std * rng.sample::<f32, _>(StandardNormal);
            let values: Vec<f32> = (0..len).map(|_| if shape.len() == 1 { 1.0 } else { draw() }).collect();
            RawTensor::from_f32(Dtype::Float32, shape, &values)
        })
    }
}

impl WeightSource for MemoryWeights {
    fn config(&self) -> &DecoderConfig {
        &self.config
    }

    fn dtype(&self, id: TensorId) -> Dtype {
        self.tensors[&id].dtype()
    }

    fn stream(&self, id: TensorId, sink: &mut Sink<'_>) -> Result<(), WeightError> {
        let tensor = &self.tensors[&id];
        tensor.bytes().chunks(PIECE_NUMBERS * tensor.dtype().size_bytes()).try_for_each(sink)
    }

    fn read(&self, id: TensorId) -> Result<RawTensor, WeightError> {
        Ok(self.tensors[&id].clone())
    }
}
