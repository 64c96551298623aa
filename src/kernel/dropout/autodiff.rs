//! The node of the autodiff graph: the gradient of an element has the factor of the element.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;

use super::{Dropout, DropoutMask};

impl<B: Dropout, C: CheckpointStrategy> Dropout for Autodiff<B, C> {
    fn dropout_rows(x: FloatTensor<Self>, mask: DropoutMask) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;

        impl<B: Dropout> Backward<B, 1> for Step {
            type State = DropoutMask;

            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                if let [Some(node)] = ops.parents {
                    grads.register::<B>(node.id, B::dropout_rows(grad, ops.state));
                }
            }
        }

        match Step.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = B::dropout_rows(x.into_primitive(), mask.clone());
                prep.finish(mask, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::dropout_rows(x.into_primitive(), mask)),
        }
    }
}
