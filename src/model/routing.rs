//! Top-k routing: which experts each token visits.

use burn::module::Module;
use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Int, Tensor, TensorData};

use super::Linear;
use crate::kernel::top_k_softmax::top_k_softmax;

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
///
/// The weight of a single expert is therefore 1, which has no gradient. Switch transformers multiply by its probability `p`
/// instead (Fedus et al., 2021, arXiv:2101.03961, §2.1), which Mixtral's files cannot say. So the weight stays 1, and its
/// gradient is that of `ln p`: the one of Switch over `p`, in the same direction.
#[derive(Module, Debug)]
pub struct Router {
    /// To `num_local_experts`.
    pub gate: Linear,
    pub(super) num_experts_per_tok: usize,
    /// Added to the probabilities when experts are chosen, `[num_local_experts]`; none if empty.
    #[module(skip)]
    pub(super) selection_bias: Vec<f32>,
}

impl Router {
    /// Routes each row of `x`: `[num_tokens, hidden_size]`.
    ///
    /// # Panics
    /// If the last axis of `x` is not `hidden_size`.
    pub fn forward(&self, x: Tensor<2>) -> Routing {
        let scores = self.gate.forward(x);
        let k = self.num_experts_per_tok;
        let (weights, experts) = if self.selection_bias.is_empty() {
            top_k_softmax(scores.clone(), k)
        } else {
            let (_, experts) = top_k_softmax(self.biased(scores.clone().without_autodiff()), k);
            (softmax(scores.clone().gather(1, experts.clone()), 1), experts)
        };
        if k == 1 && scores.is_tracked() {
            let ln_p = log_softmax(scores.clone(), 1).gather(1, experts.clone());
            return Routing { weights: (ln_p.clone() - ln_p.detach()).exp(), experts, scores };
        }
        Routing { weights, experts, scores }
    }

    /// `softmax(scores) + bias`, by which experts are chosen but not weighted (Wang et al., 2024, arXiv:2408.15664, §3).
    fn biased(&self, scores: Tensor<2>) -> Tensor<2> {
        let bias = TensorData::new(self.selection_bias.clone(), [1, self.selection_bias.len()]);
        let bias = Tensor::from_data(bias, &scores.device());
        softmax(scores, 1) + bias
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::kernel::linear::Weight;

    fn router(num_experts_per_tok: usize, selection_bias: Vec<f32>, device: &Device) -> Router {
        let gate = Tensor::<2>::from_data([[0.5f32, -1.0], [0.25, 0.75], [-2.0, 0.125]], device);
        Router { gate: Linear::from(Weight::from(gate)), num_experts_per_tok, selection_bias }
    }

    fn tokens(device: &Device) -> Tensor<2> {
        Tensor::from_data([[1.0f32, 0.5], [-0.5, 2.0]], device)
    }

    #[test]
    fn a_single_expert_has_weight_1_and_the_gradient_of_its_log_probability() {
        let device = Device::flex().autodiff();
        let router = router(1, Vec::new(), &device);
        let x = tokens(&device).require_grad();
        let Routing { weights, experts, scores } = router.forward(x.clone());
        assert_eq!(weights.clone().into_data(), TensorData::from([[1.0f32], [1.0]]));
        let outputs = Tensor::<2>::from_data([[3.0f32], [-2.0]], &device);
        let found = x.grad(&(weights * outputs.clone()).sum().backward()).expect("tracked");
        let ln_p = log_softmax(router.gate.forward(x.clone()), 1).gather(1, experts);
        let expected = x.grad(&(ln_p * outputs).sum().backward()).expect("tracked");
        found
            .clone()
            .into_data()
            .assert_approx_eq::<f32>(&expected.into_data(), burn::tensor::Tolerance::absolute(1e-6));
        assert!(found.abs().sum().into_scalar::<f32>() > 0.1, "{scores}");
    }

    #[test]
    fn of_equal_scores_the_first_experts_are_chosen() {
        for device in [Device::flex(), Device::flex().autodiff()] {
            for (num_experts, k) in [(3, 1), (4, 2), (64, 8)] {
                let gate = Linear::from(Weight::from(Tensor::<2>::zeros([num_experts, 2], &device)));
                let router = Router { gate, num_experts_per_tok: k, selection_bias: Vec::new() };
                let experts: Vec<i64> = router.forward(tokens(&device)).experts.into_data().iter::<i64>().collect();
                assert_eq!(experts, [0, 1].map(|_| 0..k as i64).into_iter().flatten().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_nan_or_infinite_score_chooses_existing_experts_and_gives_weights_that_are_not_finite() {
        let device = Device::flex().autodiff();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let gate = Tensor::<2>::from_data([[0.5f32, -1.0], [bad, 0.75], [-2.0, 0.125]], &device);
            let gate = Linear::from(Weight::from(gate));
            let router = Router { gate, num_experts_per_tok: 2, selection_bias: Vec::new() };
            let Routing { weights, experts, .. } = router.forward(tokens(&device));
            let experts: Vec<i64> = experts.into_data().iter::<i64>().collect();
            assert!(experts.iter().all(|expert| (0..3).contains(expert)), "{experts:?}");
            assert!(experts[0] != experts[1] && experts[2] != experts[3], "{experts:?}");
            let is_chosen = experts[..2].contains(&1);
            let weights: Vec<f32> = weights.into_data().iter::<f32>().collect();
            // A loss with such a weight is not finite, which stops the training.
            assert_eq!(weights[..2].iter().all(|weight| weight.is_finite()), !is_chosen, "{bad}: {weights:?}");
            assert_eq!(is_chosen, bad != f32::NEG_INFINITY, "{bad}: {experts:?}");
        }
    }

    #[test]
    fn a_bias_moves_the_choice_and_not_the_weights() {
        let device = Device::flex();
        let plain = router(2, Vec::new(), &device).forward(tokens(&device));
        let zero = router(2, vec![0.0; 3], &device).forward(tokens(&device));
        assert_eq!(plain.experts.clone().into_data(), zero.experts.into_data());
        assert_eq!(plain.weights.clone().into_data(), zero.weights.into_data());
        // Nothing but the third expert is certain to be chosen.
        let biased = router(2, vec![0.0, 0.0, 2.0], &device).forward(tokens(&device));
        let experts: Vec<i64> = biased.experts.clone().into_data().iter::<i64>().collect();
        assert!(experts[0] == 2 && experts[2] == 2, "{experts:?}");
        let expected = softmax(biased.scores.clone().gather(1, biased.experts), 1);
        assert_eq!(biased.weights.into_data(), expected.into_data());
        assert_eq!(biased.scores.into_data(), plain.scores.into_data());
    }
}
