//! The gradients of a product: `dx = dy·W`, `dW = dyᵀ·x`. Quantized weights are frozen and have none.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;

use super::{LinearBackward, LinearOps, Operand};
use crate::kernel::quantized_weight::QuantizedWeight;

impl<B: LinearBackward, C: CheckpointStrategy> LinearOps for Autodiff<B, C> {
    fn linear_float(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;

        impl<B: LinearBackward> Backward<B, 2> for Step {
            /// `x` if the weight has a gradient, and the weight if `x` has one.
            type State = [Option<FloatTensor<B>>; 2];

            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let [x, weight] = ops.state;
                let [x_node, weight_node] = ops.parents;
                if let (Some(node), Some(x)) = (weight_node, x) {
                    grads.register::<B>(node.id, B::weight_gradient(grad.clone(), x));
                }
                if let (Some(node), Some(weight)) = (x_node, weight) {
                    grads.register::<B>(node.id, B::input_gradient(grad, weight));
                }
            }
        }

        match Step.prepare::<C>([x.node(), weight.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (of_x, of_weight) = (x.is_tracked(), weight.is_tracked());
                let (x, weight) = (x.into_primitive(), weight.into_primitive());
                let saved = [of_weight.then(|| x.clone()), of_x.then(|| weight.clone())];
                prep.finish(saved, B::linear_float(x, weight))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::linear_float(x.into_primitive(), weight.into_primitive())),
        }
    }
    fn linear_weight(x: FloatTensor<Self>, weight: Operand<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;

        impl<B: LinearBackward> Backward<B, 1> for Step {
            type State = QuantizedWeight;

            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                if let [Some(node)] = ops.parents {
                    grads.register::<B>(node.id, B::input_gradient_of_blocks(grad, &ops.state));
                }
            }
        }

        let weight = match weight {
            Operand::Float(weight) => return Self::linear_float(x, weight),
            Operand::Quantized(weight) => weight,
        };
        match Step.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = B::linear_of_blocks(x.into_primitive(), &weight);
                prep.finish(weight, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::linear_of_blocks(x.into_primitive(), &weight)),
        }
    }
}
