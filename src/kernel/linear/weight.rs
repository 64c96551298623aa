//! The weight of a linear map, trainable or quantized.

#[cfg(feature = "flex")]
use burn::backend::{Backend, Dispatch, ExtensionType, TensorData, tensor::FloatTensor};
use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};

use crate::kernel::quantized_weight::QuantizedWeight;

/// A weight `[out, in]`.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "a few hundred per model")]
pub enum Weight {
    /// In float32, float16 or bfloat16. Float32 can be trained.
    Float(Param<Tensor<2>>),
    /// In float32 and trainable, with float32 gradients; products read it rounded to bfloat16.
    Mixed(Param<Tensor<2>>),
    /// In blocks of integers. Frozen: visitors of parameters skip it.
    Quantized(QuantizedWeight),
}

impl Weight {
    /// `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Float(weight) | Self::Mixed(weight) => weight.val().dims(),
            Self::Quantized(weight) => weight.dims(),
        }
    }

    /// Bytes that a product reads.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Float(weight) => weight.val().shape().num_elements() * weight.val().dtype().size(),
            Self::Mixed(weight) => weight.val().shape().num_elements() * DType::BF16.size(),
            Self::Quantized(weight) => weight.size_bytes(),
        }
    }

    /// The type in which products read the values, of which blocks count as float32.
    pub(in crate::kernel) fn dtype(&self) -> DType {
        match self {
            Self::Float(weight) => weight.val().dtype(),
            Self::Mixed(_) => DType::BF16,
            Self::Quantized(_) => DType::F32,
        }
    }

    /// The device that the weight is on.
    pub fn device(&self) -> Device {
        match self {
            Self::Float(weight) | Self::Mixed(weight) => weight.val().device(),
            Self::Quantized(weight) => weight.device(),
        }
    }

    /// The values that products read, as a float tensor, dequantized if necessary.
    pub fn float(&self) -> Tensor<2> {
        match self {
            Self::Float(weight) => weight.val(),
            Self::Mixed(weight) => weight.val().cast(DType::BF16),
            Self::Quantized(weight) => weight.dequantize(),
        }
    }

    /// The weight as an argument of an operation on a backend.
    #[cfg(feature = "flex")]
    pub(in crate::kernel) fn operand(&self) -> Operand<Dispatch> {
        match self {
            Self::Float(_) | Self::Mixed(_) => Operand::Float(self.float().into_dispatch()),
            Self::Quantized(weight) => match weight.float() {
                Some(weight) => Operand::Float(weight.clone().into_dispatch()),
                None => Operand::Quantized(weight.clone()),
            },
        }
    }
}

impl From<Tensor<2>> for Weight {
    fn from(weight: Tensor<2>) -> Self {
        Self::Float(Param::initialized(burn::module::ParamId::new(), weight))
    }
}

impl From<QuantizedWeight> for Weight {
    fn from(weight: QuantizedWeight) -> Self {
        Self::Quantized(weight)
    }
}

/// A [`Weight`] on a backend.
#[cfg(feature = "flex")]
#[derive(Debug, Clone, ExtensionType)]
#[expect(clippy::large_enum_variant, reason = "one per product, on the stack")]
pub(in crate::kernel) enum Operand<B: Backend> {
    /// `[out, in]`.
    Float(FloatTensor<B>),
    /// In blocks, in the layout of its device.
    Quantized(QuantizedWeight),
}

#[cfg(feature = "flex")]
impl<B: Backend> Operand<B> {
    /// The values as a float tensor, dequantized if necessary.
    pub(in crate::kernel) fn into_float(self, device: &B::Device) -> FloatTensor<B> {
        match self {
            Self::Float(weight) => weight,
            Self::Quantized(weight) => B::float_from_data(TensorData::new(weight.values(), weight.dims()), device),
        }
    }
}
