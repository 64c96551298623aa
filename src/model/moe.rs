//! The feed-forward of a sparse layer: a mixture of experts, dropless.

use burn::module::Module;
use burn::tensor::Tensor;

use super::{FeedForward, Linear, Router, Routing};
use crate::config::DecoderConfig;
use crate::kernel::expert_mlp::{Experts, expert_mlp};
use crate::kernel::linear::Weight;
use crate::load::{Loader, raw, raw_of};
use crate::trace::span;
use crate::weights::{LayerTensor, RawTensor, TensorId, WeightError, WeightSource};

/// `y = Σ_j weights_j · expert_j(x)` over the experts that the router chose.
#[derive(Module, Debug)]
pub struct SparseMoe {
    /// Chooses the experts of a token.
    pub router: Router,
    /// The gated MLPs.
    pub experts: Experts,
}

impl FeedForward for SparseMoe {
    const NAME: &'static str = "moe";

    fn load<S: WeightSource>(
        config: &DecoderConfig,
        loader: &Loader<'_, S>,
        layer: usize,
    ) -> Result<Self, WeightError> {
        let moe = config.moe.expect("a sparse decoder is loaded from a source with experts");
        let gate = Linear { weight: Weight::Float(loader.param(TensorId::Layer(layer, LayerTensor::Router))?) };
        let router = Router { gate, num_experts_per_tok: moe.num_experts_per_tok };
        Ok(Self { router, experts: loader.experts(layer, moe.num_local_experts)? })
    }

    fn forward(&self, residual: Tensor<3>, x: Tensor<3>) -> (Tensor<3>, Option<Routing>) {
        let shape = x.dims();
        let tokens = x.reshape([shape[0] * shape[1], shape[2]]);
        let routing = {
            let _span = span("router");
            self.router.forward(tokens.clone())
        };
        let y = {
            let _span = span("experts");
            expert_mlp(tokens, routing.weights.clone(), routing.experts.clone(), &self.experts)
        };
        let _span = span("residual");
        (residual + y.reshape(shape), Some(routing))
    }

    fn weight(&self, tensor: LayerTensor) -> RawTensor {
        match tensor {
            LayerTensor::Router => raw_of(&self.router.gate.weight),
            LayerTensor::Expert(index, projection) => raw(self.experts.floats(index)[projection as usize].clone()),
            other => panic!("a mixture of experts has no {other:?}"),
        }
    }
}
