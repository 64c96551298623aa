//! The gradients of a product: `dx = dy·W`, `dW = dyᵀ·x`. Quantized weights are frozen and have none.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, TensorMetadata};
use burn::tensor::DType;

use super::{LinearBackward, LinearOps, Operand};
use crate::kernel::quantized_weight::QuantizedWeight;
use crate::trace::{Op, Work};

/// The work of a product of `x` with a weight `[out, in]` of this size.
fn op_of(x: &impl TensorMetadata, [out_features, in_features]: [usize; 2], bytes: usize) -> Op {
    let multiply_adds = x.shape().num_elements() * out_features;
    Op { multiply_adds, bytes, parameters: out_features * in_features }
}

impl<B: LinearBackward, C: CheckpointStrategy> LinearOps for Autodiff<B, C> {
    fn linear_float(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;

        impl<B: LinearBackward> Backward<B, 2> for Step {
            /// `x` if the weight has a gradient, and the weight if `x` has one; the type in which the weight is read.
            type State = ([Option<FloatTensor<B>>; 2], DType, Work);

            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let ([x, weight], dtype, work) = ops.state;
                let [x_node, weight_node] = ops.parents;
                work.count_gradients(x_node.is_some() && weight.is_some(), weight_node.is_some() && x.is_some());
                if let (Some(node), Some(x)) = (weight_node, x) {
                    grads.register::<B>(node.id, B::weight_gradient(grad.clone(), x, dtype));
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
                let bytes = weight.shape().num_elements() * weight.dtype().size();
                let work = Work::new(op_of(&x, [weight.shape()[0], weight.shape()[1]], bytes));
                prep.finish((saved, weight.dtype(), work), B::linear_float(x, weight))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::linear_float(x.into_primitive(), weight.into_primitive())),
        }
    }

    fn linear_weight(x: FloatTensor<Self>, weight: Operand<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;

        impl<B: LinearBackward> Backward<B, 1> for Step {
            type State = (QuantizedWeight, Work);

            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let (weight, work) = ops.state;
                if let [Some(node)] = ops.parents {
                    work.count_gradients(true, false);
                    grads.register::<B>(node.id, B::input_gradient_of_blocks(grad, &weight));
                }
            }
        }

        let weight = match weight {
            Operand::Float(weight) => return Self::linear_float(x, weight),
            Operand::Quantized(weight) => weight,
        };
        match Step.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let x = x.into_primitive();
                let work = Work::new(op_of(&x, weight.dims(), weight.size_bytes()));
                let y = B::linear_of_blocks(x, &weight);
                prep.finish((weight, work), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::linear_of_blocks(x.into_primitive(), &weight)),
        }
    }
}
