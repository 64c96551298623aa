//! Top-k routing over experts, dropless.

use burn::module::Module;
use burn::tensor::{Int, Tensor, activation::softmax};

use super::{FeedForward, Linear};
use crate::config::DecoderConfig;
use crate::kernel::expert_mlp::{Experts, expert_mlp};
use crate::kernel::linear::Weight;
use crate::load::{Loader, raw, raw_of};
use crate::trace::span;
use crate::weights::{LayerTensor, RawTensor, TensorId, WeightError, WeightSource};

/// Which experts each token visits, and with what weight.
#[derive(Debug, Clone)]
pub struct Routing {
    /// `[num_tokens, num_experts_per_tok]`; a token's weights sum to 1.
    pub weights: Tensor<2>,
    /// `[num_tokens, num_experts_per_tok]`, the heaviest first; a token's experts are distinct.
    pub experts: Tensor<2, Int>,
    /// The router's logits, `[num_tokens, num_local_experts]`.
    pub scores: Tensor<2>,
}

/// Chooses the experts of each token: `weights = softmax(top_k(gate·x))`.
///
/// The softmax runs over the chosen scores only, so a token's weights sum to 1 (Jiang et al., 2024,
/// arXiv:2401.04088, §2.1).
#[derive(Module, Debug)]
pub struct Router {
    /// To `num_local_experts`.
    pub gate: Linear,
    num_experts_per_tok: usize,
}

impl Router {
    /// Routes each row of `x`: `[num_tokens, hidden_size]`.
    ///
    /// # Panics
    /// If the last axis of `x` is not `hidden_size`.
    pub fn forward(&self, x: Tensor<2>) -> Routing {
        let scores = self.gate.forward(x);
        let (chosen, experts) = scores.clone().topk_with_indices(self.num_experts_per_tok, 1);
        Routing { weights: softmax(chosen, 1), experts, scores }
    }
}

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
