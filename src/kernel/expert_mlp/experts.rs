//! The weights of the experts of a layer.

#[cfg(feature = "flex")]
use burn::backend::{Backend, Dispatch, ExtensionType, tensor::FloatTensor};
use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};

use super::quantized::{QuantizedExpert, QuantizedExperts};
use crate::kernel::linear::Weight;
use crate::kernel::quantized_weight::QuantizedWeight;

/// The gated MLPs of a layer.
#[derive(Module, Debug)]
pub enum Experts {
    /// Float, trainable.
    Stacked(StackedExperts),
    /// In float32 and trainable, with float32 gradients; products read them rounded to bfloat16.
    Mixed(StackedExperts),
    /// Quantized, frozen.
    Quantized(QuantizedExperts),
}

/// One parameter per projection, stacked over experts.
#[derive(Module, Debug)]
pub struct StackedExperts {
    /// `[num_experts, intermediate_size, hidden_size]`.
    pub gate_proj: Param<Tensor<3>>,
    /// `[num_experts, intermediate_size, hidden_size]`.
    pub up_proj: Param<Tensor<3>>,
    /// `[num_experts, hidden_size, intermediate_size]`.
    pub down_proj: Param<Tensor<3>>,
}

impl StackedExperts {
    /// Gate, up and down.
    pub fn stacks(&self) -> [&Param<Tensor<3>>; 3] {
        [&self.gate_proj, &self.up_proj, &self.down_proj]
    }
}

impl Experts {
    /// `[num_experts, intermediate_size, hidden_size]`.
    ///
    /// # Panics
    /// If there are no experts, or their sizes disagree.
    pub fn dims(&self) -> [usize; 3] {
        let all: Vec<[[usize; 2]; 3]> = match self {
            Self::Stacked(experts) | Self::Mixed(experts) => {
                let [gate, up, down] = experts.stacks().map(|stack| stack.val().dims());
                assert_eq!([gate[0]; 2], [up[0], down[0]], "experts: number of gate, up and down matrices");
                vec![[gate, up, down].map(|[_, rows, cols]| [rows, cols]); gate[0]]
            }
            Self::Quantized(experts) => {
                experts.iter().map(|expert| expert.matrices().map(QuantizedWeight::dims)).collect()
            }
        };
        let [width, hidden] = all.first().expect("experts: at least one")[0];
        for dims in &all {
            assert_eq!(*dims, [[width, hidden], [width, hidden], [hidden, width]], "experts: gate, up and down");
        }
        [all.len(), width, hidden]
    }

    /// Whether the host sorts so many visits by expert, and so waits for their choice.
    pub fn is_grouped(&self, device: &Device, num_visits: usize) -> bool {
        matches!(self, Self::Quantized(experts) if !experts.has_kernel(device, num_visits))
    }

    /// Bytes that products with one expert read, on average.
    pub(super) fn expert_bytes(&self) -> usize {
        let [num_experts, width, hidden] = self.dims();
        match self {
            Self::Stacked(experts) => 3 * width * hidden * experts.gate_proj.val().dtype().size(),
            Self::Mixed(_) => 3 * width * hidden * DType::BF16.size(),
            Self::Quantized(experts) => {
                let bytes = experts.iter().flat_map(QuantizedExpert::matrices).map(QuantizedWeight::size_bytes);
                bytes.sum::<usize>() / num_experts
            }
        }
    }

    /// Gate, up and down of one expert as float tensors, dequantized if necessary.
    pub fn floats(&self, index: usize) -> [Tensor<2>; 3] {
        match self {
            Self::Stacked(experts) | Self::Mixed(experts) => experts.stacks().map(|stack| {
                let [_, rows, cols] = stack.val().dims();
                stack.val().narrow(0, index, 1).reshape([rows, cols])
            }),
            Self::Quantized(experts) => experts[index].matrices().map(QuantizedWeight::dequantize),
        }
    }

    /// Gate, up and down of one expert, as products read them. Stacks keep their gradients.
    pub fn weights(&self, index: usize) -> [Weight; 3] {
        match self {
            Self::Stacked(_) | Self::Mixed(_) => self.floats(index).map(|weight| self.read(weight).into()),
            Self::Quantized(experts) => experts[index].matrices().map(|weight| weight.clone().into()),
        }
    }

    /// A weight as products read it.
    pub(super) fn read<const D: usize>(&self, weight: Tensor<D>) -> Tensor<D> {
        if matches!(self, Self::Mixed(_)) { weight.cast(DType::BF16) } else { weight }
    }

    /// The experts as an argument of an operation on a backend.
    #[cfg(feature = "flex")]
    pub(super) fn operand(&self) -> ExpertOperand<Dispatch> {
        match self {
            Self::Stacked(experts) | Self::Mixed(experts) => {
                let [gate, up, down] = experts.stacks().map(|stack| self.read(stack.val()).into_dispatch());
                ExpertOperand::Stacked { gate, up, down }
            }
            Self::Quantized(experts) => ExpertOperand::Quantized(experts.clone()),
        }
    }
}

/// [`Experts`] on a backend.
#[cfg(feature = "flex")]
#[derive(Debug, Clone, ExtensionType)]
pub(in crate::kernel) enum ExpertOperand<B: Backend> {
    /// One stack per projection.
    Stacked {
        /// `[num_experts, intermediate_size, hidden_size]`.
        gate: FloatTensor<B>,
        /// `[num_experts, intermediate_size, hidden_size]`.
        up: FloatTensor<B>,
        /// `[num_experts, hidden_size, intermediate_size]`.
        down: FloatTensor<B>,
    },
    /// In blocks, in the layout of their device.
    Quantized(QuantizedExperts),
}

#[cfg(feature = "flex")]
impl<B: Backend> ExpertOperand<B> {
    /// Stacks of gate, up and down.
    ///
    /// # Panics
    /// If the experts are quantized, and so never an argument under autodiff.
    pub(super) fn into_stacks(self) -> [FloatTensor<B>; 3] {
        match self {
            Self::Stacked { gate, up, down } => [gate, up, down],
            Self::Quantized(_) => panic!("quantized experts are grouped under autodiff"),
        }
    }
}
