//! Top-k routing over experts, dropless.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, activation::softmax};

use super::load::raw;
use super::weight::raw_of_blocks;
use super::{FeedForward, Linear, Loader, RmsNorm, Weight};
use crate::config::{DecoderConfig, MoeConfig};
use crate::kernel::expert_mlp::{ExpertWeights, QuantizedExpert, expert_mlp, quantized_expert_mlp};
use crate::trace::span;
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
    /// Who is visited.
    pub experts: Experts,
}

/// The gated MLPs of a layer.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "one a layer")]
pub enum Experts {
    /// In floats; they can be trained.
    Stacked(StackedExperts),
    /// In blocks of integers; they cannot.
    Quantized(QuantizedExperts),
}

/// The experts of a layer, each projection one parameter.
#[derive(Module, Debug)]
pub struct StackedExperts {
    /// `gate_proj` of all experts, `[num_local_experts, intermediate_size, hidden_size]`.
    pub gate_proj: Param<Tensor<3>>,
    /// `up_proj` of all experts, `[num_local_experts, intermediate_size, hidden_size]`.
    pub up_proj: Param<Tensor<3>>,
    /// `down_proj` of all experts, `[num_local_experts, hidden_size, intermediate_size]`.
    pub down_proj: Param<Tensor<3>>,
}

/// The experts of a layer, matrices shared by those that have the same.
#[derive(Module, Debug)]
pub struct QuantizedExperts {
    #[module(skip)]
    experts: Vec<QuantizedExpert>,
}

impl Experts {
    fn load<S: WeightSource>(moe: MoeConfig, loader: &Loader<'_, S>, layer: usize) -> Result<Self, WeightError> {
        let id = |index, projection| TensorId::Layer(layer, LayerTensor::Expert(index, projection));
        let mut experts = Vec::new();
        for index in 0..moe.num_local_experts {
            let [gate, up, down] = Projection::ALL.map(|projection| loader.blocks(id(index, projection)));
            let (Some(gate), Some(up), Some(down)) = (gate?, up?, down?) else { break };
            experts.push(QuantizedExpert { gate, up, down });
        }
        if experts.len() == moe.num_local_experts {
            return Ok(Self::Quantized(QuantizedExperts { experts }));
        }
        let stacked = |projection| loader.stacked((0..moe.num_local_experts).map(|index| id(index, projection)));
        Ok(Self::Stacked(StackedExperts {
            gate_proj: stacked(Projection::Gate)?,
            up_proj: stacked(Projection::Up)?,
            down_proj: stacked(Projection::Down)?,
        }))
    }

    fn forward(&self, tokens: Tensor<2>, weights: Tensor<2>, chosen: Tensor<2, Int>) -> Tensor<2> {
        match self {
            Self::Stacked(StackedExperts { gate_proj, up_proj, down_proj }) => {
                let mlp = ExpertWeights { gate: gate_proj.val(), up: up_proj.val(), down: down_proj.val() };
                expert_mlp(tokens, weights, chosen, mlp)
            }
            Self::Quantized(QuantizedExperts { experts }) => quantized_expert_mlp(tokens, weights, chosen, experts),
        }
    }

    fn weight(&self, index: usize, projection: Projection) -> RawTensor {
        match self {
            Self::Stacked(StackedExperts { gate_proj, up_proj, down_proj }) => {
                let stack = match projection {
                    Projection::Gate => gate_proj,
                    Projection::Up => up_proj,
                    Projection::Down => down_proj,
                };
                let [_, rows, cols] = stack.val().dims();
                raw(stack.val().narrow(0, index, 1).reshape([rows, cols]))
            }
            Self::Quantized(QuantizedExperts { experts }) => {
                let QuantizedExpert { gate, up, down } = &experts[index];
                raw_of_blocks(match projection {
                    Projection::Gate => gate,
                    Projection::Up => up,
                    Projection::Down => down,
                })
            }
        }
    }
}

impl FeedForward for SparseMoe {
    const NAME: &'static str = "moe";

    fn load<S: WeightSource>(
        config: &DecoderConfig,
        loader: &Loader<'_, S>,
        layer: usize,
    ) -> Result<Self, WeightError> {
        let moe = config.moe.expect("a sparse decoder is loaded from a source with experts");
        let router = loader.param(TensorId::Layer(layer, LayerTensor::Router))?;
        Ok(Self {
            router: Router {
                gate: Linear { weight: Weight::Float(router) },
                num_experts_per_tok: moe.num_experts_per_tok,
            },
            experts: Experts::load(moe, loader, layer)?,
        })
    }

    fn forward(&self, x: Tensor<3>, norm: &RmsNorm) -> (Tensor<3>, Option<Routing>) {
        let [batch_size, seq_length, hidden_size] = x.dims();
        let tokens = {
            let _span = span("norm");
            norm.forward(x.clone()).reshape([batch_size * seq_length, hidden_size])
        };
        let routing = {
            let _span = span("router");
            self.router.forward(tokens.clone())
        };
        let y = {
            let _span = span("experts");
            self.experts.forward(tokens, routing.weights.clone(), routing.experts.clone())
        };
        let _span = span("residual");
        (x + y.reshape([batch_size, seq_length, hidden_size]), Some(routing))
    }

    fn weight(&self, tensor: LayerTensor) -> RawTensor {
        match tensor {
            LayerTensor::Router => self.router.gate.weight.raw(),
            LayerTensor::Expert(index, projection) => self.experts.weight(index, projection),
            other => panic!("a mixture of experts has no {other:?}"),
        }
    }
}
