//! The node of the autodiff graph, for every backend that has the gradients.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;

use super::{Attention, AttentionBackward, Inputs, Kept, Mask};
use crate::trace::Work;

impl<B: AttentionBackward, C: CheckpointStrategy> Attention for Autodiff<B, C> {
    fn attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mask: Mask<Self>,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;

        impl<B: AttentionBackward> Backward<B, 3> for Step {
            type State = (Inputs<B>, Option<Kept<B>>, Work);

            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let (inputs, kept, work) = ops.state;
                // Scores and values have two gradients each, of which all are computed.
                work.count_gradients(true, true);
                let gradients = B::attention_backward(grad, inputs, kept);
                for (node, gradient) in ops.parents.into_iter().zip(gradients) {
                    if let Some(node) = node {
                        grads.register::<B>(node.id, gradient);
                    }
                }
            }
        }

        let nodes = [q.node(), k.node(), v.node()];
        let mask = match mask {
            Mask::Band(band) => Mask::Band(band),
            Mask::Ragged { bounds, num_keys, max_visible } => Mask::Ragged { bounds, num_keys, max_visible },
        };
        let [q, k, v] = [q, k, v].map(|x| x.into_primitive());
        match Step.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let inputs = Inputs { q, k, v, mask };
                let (y, kept) = B::attention_kept(inputs.clone());
                prep.finish((inputs, kept, Work::of_latest()), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::attention_forward(q, k, v, mask)),
        }
    }
}
