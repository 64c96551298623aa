//! The gradients of RMSNorm.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;

use super::{RmsNorm, RmsNormBackward};
use crate::trace::Work;

impl<B: RmsNormBackward, C: CheckpointStrategy> RmsNorm for Autodiff<B, C> {
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;

        impl<B: RmsNormBackward> Backward<B, 2> for Step {
            type State = (FloatTensor<B>, FloatTensor<B>, f32, Work);

            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let (x, weight, epsilon, work) = ops.state;
                let [x_node, weight_node] = ops.parents;
                work.count_gradients(x_node.is_some(), weight_node.is_some());
                let (dx, dweight) = B::rms_norm_backward(grad, x, weight, epsilon, weight_node.is_some());
                for (node, gradient) in [(x_node, Some(dx)), (weight_node, dweight)] {
                    if let (Some(node), Some(gradient)) = (node, gradient) {
                        grads.register::<B>(node.id, gradient);
                    }
                }
            }
        }

        match Step.prepare::<C>([x.node(), weight.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (x, weight) = (x.into_primitive(), weight.into_primitive());
                prep.finish((x.clone(), weight.clone(), epsilon, Work::of_latest()), B::rms_norm(x, weight, epsilon))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::rms_norm(x.into_primitive(), weight.into_primitive(), epsilon)),
        }
    }
}
