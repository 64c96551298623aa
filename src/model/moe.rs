//! Top-k routing over experts, dropless.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, activation::softmax};

use super::{FeedForward, Linear, Loader, load::raw};
use crate::config::DecoderConfig;
use crate::kernel::expert_mlp::{ExpertWeights, expert_mlp};
use crate::weights::{LayerTensor, Projection, RawTensor, TensorId, WeightError, WeightSource};

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
    /// Who visits whom.
    pub router: Router,
    /// `gate_proj` of all experts, `[num_local_experts, intermediate_size, hidden_size]`.
    pub gate_proj: Param<Tensor<3>>,
    /// `up_proj` of all experts, `[num_local_experts, intermediate_size, hidden_size]`.
    pub up_proj: Param<Tensor<3>>,
    /// `down_proj` of all experts, `[num_local_experts, hidden_size, intermediate_size]`.
    pub down_proj: Param<Tensor<3>>,
}

impl FeedForward for SparseMoe {
    fn load<S: WeightSource>(
        config: &DecoderConfig,
        loader: &Loader<'_, S>,
        layer: usize,
    ) -> Result<Self, WeightError> {
        let moe = config.moe.expect("a sparse decoder is loaded from a source with experts");
        let stacked = |projection| {
            let expert = |index| TensorId::Layer(layer, LayerTensor::Expert(index, projection));
            loader.stacked((0..moe.num_local_experts).map(expert))
        };
        Ok(Self {
            router: Router {
                gate: Linear { weight: loader.param(TensorId::Layer(layer, LayerTensor::Router))? },
                num_experts_per_tok: moe.num_experts_per_tok,
            },
            gate_proj: stacked(Projection::Gate)?,
            up_proj: stacked(Projection::Up)?,
            down_proj: stacked(Projection::Down)?,
        })
    }

    fn forward(&self, x: Tensor<3>) -> (Tensor<3>, Option<Routing>) {
        let [batch_size, seq_length, hidden_size] = x.dims();
        let tokens = x.reshape([batch_size * seq_length, hidden_size]);
        let routing = self.router.forward(tokens.clone());
        let mlp = ExpertWeights { gate: self.gate_proj.val(), up: self.up_proj.val(), down: self.down_proj.val() };
        let y = expert_mlp(tokens, routing.weights.clone(), routing.experts.clone(), mlp);
        (y.reshape([batch_size, seq_length, hidden_size]), Some(routing))
    }

    fn weight(&self, tensor: LayerTensor) -> RawTensor {
        let expert = |stack: &Param<Tensor<3>>, index: usize| {
            let [_, rows, cols] = stack.val().dims();
            raw(stack.val().narrow(0, index, 1).reshape([rows, cols]))
        };
        match tensor {
            LayerTensor::Router => raw(self.router.gate.weight.val()),
            LayerTensor::Expert(index, Projection::Gate) => expert(&self.gate_proj, index),
            LayerTensor::Expert(index, Projection::Up) => expert(&self.up_proj, index),
            LayerTensor::Expert(index, Projection::Down) => expert(&self.down_proj, index),
            other => panic!("a mixture of experts has no {other:?}"),
        }
    }
}
