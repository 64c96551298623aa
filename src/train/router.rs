//! Routers in training: the load-balancing loss, and statistics of the load on each expert.

use burn::tensor::{Bool, IndexingUpdateOp, Tensor, activation::softmax};
use serde::{Deserialize, Serialize};

use crate::model::Routing;

/// `E · Σ_e f_e · P_e`, mean over layers: `f_e` the visits to expert `e` per token, `P_e` the mean of
/// `softmax(scores)_e` (Fedus et al., 2021, arXiv:2101.03961, §2.2, summed over the `k` choices as in transformers'
/// Mixtral, but per layer, so that one layer's imbalance cannot hide another's). At perfect balance it is `k`.
///
/// `tokens` marks the tokens that count, `[num_tokens]`; without it, all do.
///
/// # Panics
/// If no layer routes.
pub fn load_balancing_loss(routing: &[Routing], tokens: Option<&Tensor<1, Bool>>) -> Tensor<1> {
    mean_over_layers(routing, |routing| {
        let [num_tokens, num_experts] = routing.scores.dims();
        let probabilities = softmax(routing.scores.clone(), 1);
        let visits = expert_visits(routing, tokens);
        let (probability, share) = match tokens {
            None => (probabilities.mean_dim(0), visits / num_tokens as f64),
            Some(tokens) => {
                let weights = tokens.clone().float();
                let num_tokens = weights.clone().sum();
                let sum = (probabilities * weights.unsqueeze_dim(1)).sum_dim(0);
                (sum / num_tokens.clone().unsqueeze_dim(1), visits / num_tokens)
            }
        };
        (share * probability.reshape([num_experts])).sum() * num_experts as f64
    })
}

/// `mean((ln Σ_e exp(scores_e))²)` over tokens and layers: keeps the logits of routers small (Zoph et al., 2022,
/// arXiv:2202.08906, §3.2). `tokens` is as in [`load_balancing_loss`].
///
/// # Panics
/// If no layer routes.
pub fn router_z_loss(routing: &[Routing], tokens: Option<&Tensor<1, Bool>>) -> Tensor<1> {
    mean_over_layers(routing, |routing| {
        let [num_tokens, _] = routing.scores.dims();
        let largest = routing.scores.clone().detach().max_dim(1);
        let log_sum_exp = (routing.scores.clone() - largest.clone()).exp().sum_dim(1).log() + largest;
        let squares = log_sum_exp.clone().mul(log_sum_exp).reshape([num_tokens]);
        match tokens {
            None => squares.mean(),
            Some(tokens) => {
                let weights = tokens.clone().float();
                (squares * weights.clone()).sum() / weights.sum()
            }
        }
    })
}

fn mean_over_layers(routing: &[Routing], of_layer: impl Fn(&Routing) -> Tensor<1>) -> Tensor<1> {
    let sum = routing.iter().map(of_layer).reduce(|sum, term| sum + term).expect("a dense model has no router");
    sum / routing.len() as f64
}

/// The terms that a router adds to a loss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct RouterLoss {
    /// Coefficient of [`load_balancing_loss`]; by default `router_aux_loss_coef` of the config.
    pub aux_loss_coef: Option<f64>,
    /// Coefficient of [`router_z_loss`].
    pub z_loss_coef: f64,
}

impl RouterLoss {
    /// The terms, `[1]`, and the value of the balancing loss before its coefficient.
    pub(super) fn of(
        &self,
        routing: &[Routing],
        tokens: Option<&Tensor<1, Bool>>,
        default_aux_loss_coef: f64,
    ) -> (Tensor<1>, f64) {
        let balance = load_balancing_loss(routing, tokens);
        let aux_loss = f64::from(balance.clone().into_scalar::<f32>());
        let loss = balance * self.aux_loss_coef.unwrap_or(default_aux_loss_coef);
        match self.z_loss_coef {
            0.0 => (loss, aux_loss),
            coefficient => (loss + router_z_loss(routing, tokens) * coefficient, aux_loss),
        }
    }
}

/// How many tokens visited each expert, `[num_local_experts]`; a constant to autodiff.
fn expert_visits(routing: &Routing, tokens: Option<&Tensor<1, Bool>>) -> Tensor<1> {
    let [_, num_experts] = routing.scores.dims();
    let device = routing.scores.device();
    let [num_tokens, k] = routing.experts.dims();
    let visits = routing.experts.clone().reshape([num_tokens * k]);
    let counts = match tokens {
        None => Tensor::<1>::ones([num_tokens * k], &device),
        Some(tokens) => tokens.clone().float().unsqueeze_dim::<2>(1).repeat_dim(1, k).reshape([num_tokens * k]),
    };
    Tensor::zeros([num_experts], &device).select_assign(0, visits, counts, IndexingUpdateOp::Add)
}

/// Visits to the experts of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct RouterStats {
    /// Visits to each expert.
    pub visits: Vec<u64>,
}

impl RouterStats {
    /// The statistics of each layer of one pass.
    pub(super) fn of_layers(routing: &[Routing], tokens: Option<&Tensor<1, Bool>>) -> Vec<Self> {
        let of_layer = |routing: &Routing| {
            let visits = expert_visits(routing, tokens).into_data();
            Self { visits: visits.iter::<f32>().map(|visits| visits as u64).collect() }
        };
        routing.iter().map(of_layer).collect()
    }

    /// Adds the visits of a pass, layer by layer; `sum` is empty before the first.
    pub fn add(sum: &mut Vec<Self>, pass: Vec<Self>) {
        if sum.is_empty() {
            *sum = pass;
            return;
        }
        for (sum, pass) in sum.iter_mut().zip(pass) {
            sum.visits.iter_mut().zip(pass.visits).for_each(|(sum, visits)| *sum += visits);
        }
    }

    /// Share of the visits that each expert got; they sum to 1.
    pub fn load(&self) -> Vec<f64> {
        let total = self.visits.iter().sum::<u64>().max(1) as f64;
        self.visits.iter().map(|&visits| visits as f64 / total).collect()
    }

    /// Standard deviation of the load over its mean: 0 at perfect balance.
    pub fn load_cv(&self) -> f64 {
        let (load, mean) = (self.load(), 1.0 / self.visits.len() as f64);
        let variance = load.iter().map(|share| (share - mean).powi(2)).sum::<f64>() / load.len() as f64;
        variance.sqrt() / mean
    }

    /// `−Σ load·ln load` in nats: `ln E` at perfect balance.
    pub fn entropy_nats(&self) -> f64 {
        self.load().into_iter().filter(|share| *share > 0.0).map(|share| -share * share.ln()).sum()
    }

    /// Experts that no token visited.
    pub fn dead_experts(&self) -> usize {
        self.visits.iter().filter(|visits| **visits == 0).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balance_has_the_entropy_of_the_number_of_experts_and_no_spread() {
        let stats = RouterStats { visits: vec![5; 8] };
        assert!((stats.entropy_nats() - 8f64.ln()).abs() < 1e-12);
        assert_eq!((stats.load_cv(), stats.dead_experts()), (0.0, 0));
    }

    #[test]
    fn collapse_has_no_entropy_and_dead_experts() {
        let stats = RouterStats { visits: vec![0, 40, 0, 0] };
        assert_eq!((stats.entropy_nats(), stats.dead_experts()), (0.0, 3));
        assert!((stats.load_cv() - 3f64.sqrt()).abs() < 1e-12);
    }

    #[cfg(feature = "flex")]
    mod on_flex {
        use burn::tensor::{Device, TensorData};

        use super::super::*;

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
            let loss = load_balancing_loss(&[routing(scores, 2)], None).into_scalar::<f32>();
            assert!((loss - 2.0).abs() < 1e-6, "{loss}");
        }

        #[test]
        fn collapse_onto_one_expert_costs_the_number_of_experts() {
            let scores = Tensor::from_data(TensorData::from([[50.0f32, 0.0, 0.0], [50.0, 0.0, 0.0]]), &Device::flex());
            let loss = load_balancing_loss(&[routing(scores, 1)], None).into_scalar::<f32>();
            assert!((loss - 3.0).abs() < 1e-6, "{loss}");
        }

        #[test]
        fn visits_count_every_choice_of_every_token() {
            let scores = Tensor::from_data(TensorData::from([[3.0f32, 2.0, 1.0], [1.0, 3.0, 2.0]]), &Device::flex());
            let visits = expert_visits(&routing(scores, 2), None).into_data();
            assert_eq!(visits, TensorData::from([1.0f32, 2.0, 1.0]));
        }

        #[test]
        fn padding_does_not_move_a_term_of_the_router() {
            let device = Device::flex();
            let scores = [[3.0f32, 2.0, 1.0], [1.0, 3.0, 2.0], [9.0, -4.0, 7.0]];
            let padded = routing(Tensor::from_data(TensorData::from(scores), &device), 2);
            let alone = routing(Tensor::from_data(TensorData::from([scores[0], scores[1]]), &device), 2);
            let mask = Tensor::from_data(TensorData::from([true, true, false]), &device);
            for term in [load_balancing_loss, router_z_loss] {
                let value = |routing: &Routing, mask| term(std::slice::from_ref(routing), mask).into_scalar::<f32>();
                let expected = value(&alone, None);
                assert!((value(&padded, Some(&mask)) - expected).abs() < 1e-5);
                assert!((value(&padded, None) - expected).abs() > 1e-2, "padding goes unnoticed");
            }
            assert_eq!(RouterStats::of_layers(&[padded], Some(&mask)), RouterStats::of_layers(&[alone], None));
        }

        #[test]
        fn the_z_loss_is_the_squared_log_partition_function() {
            let scores = Tensor::from_data(TensorData::from([[1.0f32, 2.0, 300.0]]), &Device::flex());
            assert_eq!(router_z_loss(&[routing(scores, 1)], None).into_scalar::<f32>(), 90_000.0);
        }
    }
}
