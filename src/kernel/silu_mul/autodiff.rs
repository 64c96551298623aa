//! The gradients of [`silu_mul`](super::silu_mul).

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;

use super::{SiluMul, SiluMulBackward};

impl<B: SiluMulBackward, C: CheckpointStrategy> SiluMul for Autodiff<B, C> {
    fn silu_mul(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;

        impl<B: SiluMulBackward> Backward<B, 2> for Step {
            type State = (FloatTensor<B>, FloatTensor<B>);

            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let (dgate, dup) = B::silu_mul_backward(grad, ops.state.0, ops.state.1);
                for (node, gradient) in ops.parents.into_iter().zip([dgate, dup]) {
                    if let Some(node) = node {
                        grads.register::<B>(node.id, gradient);
                    }
                }
            }
        }

        match Step.prepare::<C>([gate.node(), up.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (gate, up) = (gate.into_primitive(), up.into_primitive());
                prep.finish((gate.clone(), up.clone()), B::silu_mul(gate, up))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::silu_mul(gate.into_primitive(), up.into_primitive())),
        }
    }
}
