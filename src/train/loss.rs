//! The loss that keeps the experts evenly used, beside that of the next token.

use burn::tensor::{IndexingUpdateOp, Tensor, activation::softmax};

use crate::model::Routing;

/// `E · Σ_e f_e · P_e`, mean over layers: `f_e` the visits to expert `e` per token, `P_e` the mean of
/// `softmax(scores)_e` (Fedus et al., 2021, arXiv:2101.03961, §2.2, summed over the `k` choices as in transformers'
/// Mixtral, but per layer, so that one layer's imbalance cannot hide another's). At perfect balance it is `k`.
///
/// # Panics
/// If no layer routes.
pub fn load_balancing_loss(routing: &[Routing]) -> Tensor<1> {
    assert!(!routing.is_empty(), "a dense model has no balancing loss");
    let of_layer = |routing: &Routing| {
        let [num_tokens, num_experts] = routing.scores.dims();
        let probability = softmax(routing.scores.clone(), 1).mean_dim(0).reshape([num_experts]);
        let share = expert_visits(routing) / num_tokens as f64;
        (share * probability).sum() * num_experts as f64
    };
    let sum = routing.iter().map(of_layer).reduce(|sum, term| sum + term).expect("not empty");
    sum / routing.len() as f64
}

/// How many tokens visited each expert, `[num_local_experts]`; a constant to autodiff.
pub(super) fn expert_visits(routing: &Routing) -> Tensor<1> {
    let [_, num_experts] = routing.scores.dims();
    let device = routing.scores.device();
    let [num_tokens, k] = routing.experts.dims();
    let visits = routing.experts.clone().reshape([num_tokens * k]);
    let ones = Tensor::<1>::ones([num_tokens * k], &device);
    Tensor::zeros([num_experts], &device).select_assign(0, visits, ones, IndexingUpdateOp::Add)
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    fn routing(scores: Tensor<2>, k: usize) -> Routing {
        let (chosen, experts) = scores.clone().topk_with_indices(k, 1);
        Routing { weights: softmax(chosen, 1), experts, scores }
    }

    #[test]
    fn perfect_balance_costs_k() {
        let device = Device::flex();
        // Every token scores the experts in a different rotation of the same order.
        let scores = (0..8).flat_map(|t| (0..4).map(move |e| ((e + t) % 4) as f32)).collect();
        let scores = Tensor::from_data(TensorData::new::<f32, _>(scores, [8, 4]), &device);
        let loss = load_balancing_loss(&[routing(scores, 2)]).into_scalar::<f32>();
        assert!((loss - 2.0).abs() < 1e-6, "{loss}");
    }

    #[test]
    fn collapse_onto_one_expert_costs_the_number_of_experts() {
        let scores = Tensor::from_data(TensorData::from([[50.0f32, 0.0, 0.0], [50.0, 0.0, 0.0]]), &Device::flex());
        let loss = load_balancing_loss(&[routing(scores, 1)]).into_scalar::<f32>();
        assert!((loss - 3.0).abs() < 1e-6, "{loss}");
    }

    #[test]
    fn visits_count_every_choice_of_every_token() {
        let scores = Tensor::from_data(TensorData::from([[3.0f32, 2.0, 1.0], [1.0, 3.0, 2.0]]), &Device::flex());
        let visits = expert_visits(&routing(scores, 2)).into_data();
        assert_eq!(visits, TensorData::from([1.0f32, 2.0, 1.0]));
    }
}
