//! The gradient of [`top_k_softmax`](super::top_k_softmax). The choice has none.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, TensorMetadata};
use burn::tensor::IntDType;

use super::{TopKSoftmax, TopKSoftmaxBackward};

impl<B: TopKSoftmaxBackward, C: CheckpointStrategy> TopKSoftmax for Autodiff<B, C> {
    fn top_k_softmax(scores: FloatTensor<Self>, k: usize, dtype: IntDType) -> (FloatTensor<Self>, IntTensor<Self>) {
        #[derive(Debug)]
        struct Step;

        impl<B: TopKSoftmaxBackward> Backward<B, 1> for Step {
            type State = (FloatTensor<B>, IntTensor<B>, usize);

            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let (weights, experts, num_experts) = ops.state;
                if let [Some(node)] = ops.parents {
                    grads.register::<B>(node.id, B::top_k_softmax_backward(grad, weights, experts, num_experts));
                }
            }
        }

        let node = scores.node();
        let scores = scores.into_primitive();
        let num_experts = scores.shape()[1];
        let (weights, experts) = B::top_k_softmax(scores, k, dtype);
        let weights = match Step.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((weights.clone(), experts.clone(), num_experts), weights),
            OpsKind::UnTracked(prep) => prep.finish(weights),
        };
        (weights, experts)
    }
}
