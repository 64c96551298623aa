//! The gradients of float experts.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};

use super::{ExpertMlp, ExpertMlpBackward, ExpertOperand, Inputs};
use crate::trace::Work;

impl<B: ExpertMlpBackward, C: CheckpointStrategy> ExpertMlp for Autodiff<B, C> {
    fn expert_mlp(
        x: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        chosen: IntTensor<Self>,
        experts: ExpertOperand<Self>,
    ) -> FloatTensor<Self> {
        let [gate, up, down] = experts.into_stacks();
        #[derive(Debug)]
        struct Step;

        impl<B: ExpertMlpBackward> Backward<B, 5> for Step {
            type State = (Inputs<B>, IntTensor<B>, [FloatTensor<B>; 2], Work);

            fn backward(self, ops: Ops<Self::State, 5>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let (inputs, chosen, saved, work) = ops.state;
                let of_matrices = ops.parents[2..].iter().any(Option::is_some);
                work.count_gradients(true, of_matrices);
                let (of_tokens, of_matrices) = B::expert_mlp_backward(grad, inputs, chosen, saved, of_matrices);
                let gradients = of_tokens.into_iter().chain(of_matrices.into_iter().flatten());
                for (node, gradient) in ops.parents.into_iter().zip(gradients) {
                    if let Some(node) = node {
                        grads.register::<B>(node.id, gradient);
                    }
                }
            }
        }

        let nodes = [x.node(), weights.node(), gate.node(), up.node(), down.node()];
        let inputs = [x, weights, gate, up, down].map(|input| input.into_primitive());
        match Step.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let [y, gate_out, up_out] = B::expert_mlp_saved(inputs.clone(), chosen.clone());
                prep.finish((inputs, chosen, [gate_out, up_out], Work::of_latest()), y)
            }
            OpsKind::UnTracked(prep) => {
                // The rounding of the tracked pass, on which recomputed layers rely.
                let [y, ..] = B::expert_mlp_saved(inputs, chosen);
                prep.finish(y)
            }
        }
    }
}
