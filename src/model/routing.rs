//! Top-k routing: which experts each token visits.

use burn::module::Module;
use burn::tensor::{Int, Tensor, activation::softmax};

use super::Linear;

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
    pub(super) num_experts_per_tok: usize,
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
