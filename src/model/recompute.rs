//! Layers that keep their input only, and are computed again for their gradient.

use std::sync::Arc;

use burn::backend::DispatchTensor;
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};

use super::{DecoderLayer, FeedForward, Positions, Routing};
use crate::kernel::recompute::{Segment, SegmentGradients, SegmentOutput, recomputed};

/// A layer with the positions of a pass, which are without a graph.
#[derive(Debug)]
struct LayerSegment<F: FeedForward> {
    layer: DecoderLayer<F>,
    positions: Positions,
}

impl<F: FeedForward> Segment for LayerSegment<F> {
    fn backward(&self, x: Tensor<3>, dy: Tensor<3>, dscores: Option<Tensor<2>>) -> SegmentGradients {
        let x = Tensor::from_inner(x).require_grad();
        let (y, routing) = self.layer.forward(x.clone(), &self.positions, None);
        // The gradient of this sum by y is dy to the bit.
        let mut sum = (y * Tensor::from_inner(dy)).sum();
        if let (Some(routing), Some(dscores)) = (routing, dscores) {
            sum = sum + (routing.scores * Tensor::from_inner(dscores)).sum();
        }
        let mut grads = sum.backward();
        let x = x.grad_remove(&mut grads).expect("a layer depends on its input");
        let mut found = ParameterGradients { grads, found: Vec::new() };
        self.layer.visit(&mut found);
        SegmentGradients { x, parameters: found.found }
    }
}

/// Takes the gradient of every trained parameter.
struct ParameterGradients {
    grads: Gradients,
    found: Vec<(DispatchTensor, DispatchTensor)>,
}

impl ModuleVisitor for ParameterGradients {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        if value.is_require_grad()
            && let Some(gradient) = value.grad_remove(&mut self.grads)
        {
            self.found.push((value.into_dispatch(), gradient.into_dispatch()));
        }
    }
}

/// Whether a parameter of a module is trained.
fn is_trained<M: Module>(module: &M) -> bool {
    struct Trained(bool);

    impl ModuleVisitor for Trained {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0 |= param.is_require_grad();
        }
    }

    let mut trained = Trained(false);
    module.visit(&mut trained);
    trained.0
}

impl<F: FeedForward> DecoderLayer<F> {
    /// As [`forward`](Self::forward) without a cache, with the same gradients to the bit, except that those of a router
    /// with more than one loss may be added in another order. Keeps `x` alone; `positions` are without a graph.
    pub(super) fn forward_recomputed(&self, x: Tensor<3>, positions: &Positions) -> (Tensor<3>, Option<Routing>) {
        // Operations without a gradient compute what those with one do, to the bit, but save nothing.
        let (y, routing) = self.clone().no_grad().forward(x.clone().detach(), positions, None);
        if !x.is_tracked() && !is_trained(self) {
            return (y, routing);
        }
        let segment = LayerSegment { layer: self.clone(), positions: positions.clone() };
        let output = SegmentOutput { y, scores: routing.as_ref().map(|routing| routing.scores.clone()) };
        let SegmentOutput { y, scores } = recomputed(x, output, Arc::new(segment));
        (y, routing.zip(scores).map(|(routing, scores)| Routing { scores, ..routing }))
    }
}
