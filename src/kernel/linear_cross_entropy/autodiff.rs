//! The node of the autodiff graph, for every backend that has the gradients.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, TensorMetadata};
use burn::tensor::FloatDType;

use super::{Gradients, Inputs, LinearCrossEntropy, LinearCrossEntropyBackward, Upstream};
use crate::kernel::linear::Operand;
use crate::trace::Work;

impl<B: LinearCrossEntropyBackward, C: CheckpointStrategy> LinearCrossEntropy for Autodiff<B, C> {
    fn linear_cross_entropy_forward(
        hidden: FloatTensor<Self>,
        weight: Operand<Self>,
        targets: IntTensor<Self>,
        upstream: Upstream,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;

        impl<B: LinearCrossEntropyBackward> Backward<B, 2> for Step {
            type State = (Inputs<B>, Gradients<B>, Work);

            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut grads::Gradients, _: &mut Checkpointer) {
                let upstream = grads.consume::<B>(&ops.node);
                let (inputs, of_mean, work) = ops.state;
                work.count_gradients(ops.parents[0].is_some(), ops.parents[1].is_some());
                let [hidden_node, weight_node] = ops.parents;
                let gradients = B::gradients(upstream, inputs, of_mean, weight_node.is_some());
                if let (Some(node), Some(gradient)) = (weight_node, gradients.weight) {
                    grads.register::<B>(node.id, gradient);
                }
                if let Some(node) = hidden_node {
                    grads.register::<B>(node.id, gradients.hidden);
                }
            }
        }

        let (weight_node, of_weight, weight) = match weight {
            Operand::Float(weight) => (weight.node(), weight.is_tracked(), Operand::Float(weight.into_primitive())),
            // Frozen, as is the constant that stands for it in the graph.
            Operand::Quantized(weight) => {
                let none = Self::float_zeros([1].into(), &hidden.device(), FloatDType::F32);
                (none.node(), false, Operand::Quantized(weight))
            }
        };
        match Step.prepare::<C>([hidden.node(), weight_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let inputs = Inputs { hidden: hidden.into_primitive(), weight, targets };
                let (losses, of_mean) =
                    B::losses_and_gradients(inputs.clone(), of_weight && upstream == Upstream::Equal);
                prep.finish((inputs, of_mean, Work::of_latest()), losses)
            }
            OpsKind::UnTracked(prep) => {
                let hidden = hidden.into_primitive();
                prep.finish(match weight {
                    Operand::Float(_) => B::linear_cross_entropy_forward(hidden, weight, targets, upstream),
                    // Activations are not rounded here either, so that a reference without gradients has the same losses.
                    Operand::Quantized(_) => B::losses_and_gradients(Inputs { hidden, weight, targets }, false).0,
                })
            }
        }
    }
}
