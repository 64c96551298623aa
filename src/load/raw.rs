//! Parameters as weights again.

use burn::tensor::{DType, Tensor};

use crate::kernel::linear::Weight;
use crate::weights::{Dtype, RawTensor};

/// The value of a parameter, in its own type.
pub(crate) fn raw<const D: usize>(value: Tensor<D>) -> RawTensor {
    let shape = value.dims().to_vec();
    let dtype = match value.dtype() {
        DType::F16 => Dtype::Float16,
        DType::BF16 => Dtype::Bfloat16,
        _ => Dtype::Float32,
    };
    let wide = value.cast(DType::F32).into_data().try_into_vec::<f32>().expect("cast to f32");
    RawTensor::from_f32(dtype, shape, &wide)
}

/// The value of a weight, in its own type; of a quantized one, in float32.
pub(crate) fn raw_of(weight: &Weight) -> RawTensor {
    match weight {
        Weight::Float(param) | Weight::Mixed(param) => raw(param.val()),
        Weight::Quantized(weight) => RawTensor::from_f32(Dtype::Float32, weight.dims().to_vec(), &weight.values()),
    }
}
