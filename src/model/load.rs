//! From weights to parameters and back.

use burn::module::Param;
use burn::tensor::{DType, Device, Tensor, TensorData, bf16, f16};

use crate::weights::{Dtype, RawTensor, TensorId, WeightError, WeightSource};

/// Makes parameters of the weights of a source. Each call makes a parameter of its own: two layers that read the
/// same weight share nothing.
#[derive(Debug)]
pub struct Loader<'a, S> {
    source: &'a S,
    dtype: Dtype,
    device: &'a Device,
}

impl<'a, S: WeightSource> Loader<'a, S> {
    /// Loads from `source` to `device`, keeping weights in `dtype`.
    pub fn new(source: &'a S, dtype: Dtype, device: &'a Device) -> Self {
        Self { source, dtype, device }
    }

    /// The device that parameters are made on.
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// One weight as a parameter.
    ///
    /// # Errors
    /// What the source says.
    ///
    /// # Panics
    /// If the weight has not `D` axes.
    pub fn param<const D: usize>(&self, id: TensorId) -> Result<Param<Tensor<D>>, WeightError> {
        Ok(Param::from_tensor(self.tensor(id)?))
    }

    /// Weights of one shape, stacked along a new first axis, as one parameter.
    ///
    /// # Errors
    /// What the source says.
    pub fn stacked(&self, ids: impl Iterator<Item = TensorId>) -> Result<Param<Tensor<3>>, WeightError> {
        let matrices = ids.map(|id| self.tensor::<2>(id)).collect::<Result<Vec<_>, _>>()?;
        Ok(Param::from_tensor(Tensor::stack(matrices, 0)))
    }

    fn tensor<const D: usize>(&self, id: TensorId) -> Result<Tensor<D>, WeightError> {
        let dtype = if D == 1 { Dtype::Float32 } else { self.dtype };
        let found = self.source.dtype(id);
        if !found.is_float() {
            return Err(WeightError::NotComputable { id, found, expected: "floating-point numbers to compute with" });
        }
        let raw = self.source.read(id)?.cast(dtype);
        let shape = raw.shape().to_vec();
        let (data, dtype) = match raw.dtype() {
            Dtype::Float16 => (TensorData::new(halves(raw.bytes(), f16::from_bits), shape), DType::F16),
            Dtype::Bfloat16 => (TensorData::new(halves(raw.bytes(), bf16::from_bits), shape), DType::BF16),
            _ => (TensorData::new(raw.to_f32(), shape), DType::F32),
        };
        Ok(Tensor::from_data(data, (self.device, dtype)))
    }
}

fn halves<T>(bytes: &[u8], from_bits: fn(u16) -> T) -> Vec<T> {
    bytes.chunks_exact(2).map(|b| from_bits(u16::from_le_bytes([b[0], b[1]]))).collect()
}

/// A parameter's value as a weight, in the type that it is kept in.
pub(super) fn raw<const D: usize>(value: Tensor<D>) -> RawTensor {
    let shape = value.dims().to_vec();
    let dtype = match value.dtype() {
        DType::F16 => Dtype::Float16,
        DType::BF16 => Dtype::Bfloat16,
        _ => Dtype::Float32,
    };
    let wide = value.cast(DType::F32).into_data().try_into_vec::<f32>().expect("cast to f32");
    RawTensor::from_f32(dtype, shape, &wide)
}
