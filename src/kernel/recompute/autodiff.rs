//! The nodes of a segment.

use std::sync::Arc;

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::tensor::Tensor;

use super::{Recompute, RecomputeBackward, ScoresGradient, Segment, SegmentGradients};

impl<B: RecomputeBackward, C: CheckpointStrategy> Recompute for Autodiff<B, C> {
    fn recomputed(
        x: FloatTensor<Self>,
        anchor: FloatTensor<Self>,
        y: FloatTensor<Self>,
        segment: Arc<dyn Segment>,
        dscores: ScoresGradient,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;

        impl<B: RecomputeBackward> Backward<B, 2> for Step {
            type State = (FloatTensor<B>, Arc<dyn Segment>, ScoresGradient);

            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let dy = grads.consume::<B>(&ops.node);
                let (x, segment, dscores) = ops.state;
                let [x, dy] = [x, dy].map(|tensor| Tensor::from_dispatch(B::dispatch(tensor)));
                let SegmentGradients { x: dx, parameters } = segment.backward(x, dy, dscores.take());
                // Parameters are no parents of the node: there are any number of them.
                for (parameter, gradient) in parameters {
                    grads.register::<B>(B::node_id(parameter), B::primitive(gradient));
                }
                let [x_node, _] = ops.parents;
                if let Some(node) = x_node {
                    grads.register::<B>(node.id, B::primitive(dx.into_dispatch()));
                }
            }
        }

        let nodes = [x.node(), anchor.node()];
        match Step.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x.into_primitive(), segment, dscores), y.into_primitive()),
            OpsKind::UnTracked(prep) => prep.finish(y.into_primitive()),
        }
    }

    fn observed(y: FloatTensor<Self>, scores: FloatTensor<Self>, dscores: ScoresGradient) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;

        impl<B: RecomputeBackward> Backward<B, 1> for Step {
            type State = ScoresGradient;

            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                ops.state.put(B::dispatch(grads.consume::<B>(&ops.node)));
            }
        }

        match Step.prepare::<C>([y.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(dscores, scores.into_primitive()),
            OpsKind::UnTracked(prep) => prep.finish(scores.into_primitive()),
        }
    }
}
