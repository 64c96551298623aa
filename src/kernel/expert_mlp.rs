//! The experts of a sparse layer: each token through the gated MLPs that its router chose, no token dropped.

#[cfg(feature = "flex")]
mod backward;
#[cfg(feature = "flex")]
mod flex;
mod quantized;

pub use quantized::{QuantizedExpert, quantized_expert_mlp, quantized_expert_mlp_reference};

use burn::tensor::{Int, Tensor};

use super::linear::linear;
use super::silu_mul::silu_mul_reference;

/// The stacked matrices of a layer's experts.
#[derive(Debug, Clone)]
pub struct ExpertWeights {
    /// `[num_experts, intermediate_size, hidden_size]`.
    pub gate: Tensor<3>,
    /// `[num_experts, intermediate_size, hidden_size]`.
    pub up: Tensor<3>,
    /// `[num_experts, hidden_size, intermediate_size]`.
    pub down: Tensor<3>,
}

/// `y_t = Σ_j weights[t, j] · down_e(silu(gate_e(x_t)) ∘ up_e(x_t))`, `e = experts[t, j]`
/// (Jiang et al., 2024, arXiv:2401.04088, §2.1).
///
/// Tokens are sorted by expert, each expert multiplies just its own (Gale et al., 2022, arXiv:2211.15841), and the
/// results are summed back in the order of `j`: the same bits for any number of threads.
///
/// # Shapes
/// - `x`, result: `[num_tokens, hidden_size]`
/// - `weights`, `experts`: `[num_tokens, num_experts_per_tok]`; the experts of a token are distinct
///
/// # Panics
/// If the sizes disagree or an expert does not exist.
pub fn expert_mlp(x: Tensor<2>, weights: Tensor<2>, experts: Tensor<2, Int>, mlp: ExpertWeights) -> Tensor<2> {
    let [num_tokens, hidden_size] = x.dims();
    let [num_experts, intermediate_size, _] = mlp.gate.dims();
    assert_routing(num_tokens, &weights, &experts);
    assert_eq!(mlp.gate.dims(), mlp.up.dims(), "expert_mlp: gate and up");
    assert_eq!(mlp.gate.dims()[2], hidden_size, "expert_mlp: gate and hidden_size");
    assert_eq!(mlp.down.dims(), [num_experts, hidden_size, intermediate_size], "expert_mlp: down");
    #[cfg(feature = "flex")]
    if super::has_kernel(&x.device()) {
        return Tensor::from_dispatch(<burn::backend::Dispatch as flex::ExpertMlp>::expert_mlp_forward(
            x.into_dispatch(),
            weights.into_dispatch(),
            experts.into_dispatch(),
            mlp.gate.into_dispatch(),
            mlp.up.into_dispatch(),
            mlp.down.into_dispatch(),
        ));
    }
    expert_mlp_reference(x, weights, experts, mlp)
}

/// What the routing of any experts has to be.
fn assert_routing(num_tokens: usize, weights: &Tensor<2>, experts: &Tensor<2, Int>) {
    assert_eq!(weights.dims(), experts.dims(), "expert_mlp: weights and experts");
    assert_eq!(weights.dims()[0], num_tokens, "expert_mlp: tokens and routing");
}

/// The equation as it stands: every expert over every token, its weight zero where it was not chosen.
pub fn expert_mlp_reference(
    x: Tensor<2>,
    weights: Tensor<2>,
    experts: Tensor<2, Int>,
    mlp: ExpertWeights,
) -> Tensor<2> {
    let matrix = |stack: &Tensor<3>, index: usize| -> Tensor<2> {
        let [_, rows, cols] = stack.dims();
        stack.clone().narrow(0, index, 1).reshape([rows, cols])
    };
    let [num_experts, _, _] = mlp.gate.dims();
    (0..num_experts).fold(x.zeros_like(), |y, index| {
        let weight = weights.clone().mask_fill(experts.clone().not_equal_elem(index as i64), 0.0).sum_dim(1);
        let gate = linear(x.clone(), matrix(&mlp.gate, index));
        let up = linear(x.clone(), matrix(&mlp.up, index));
        y + linear(silu_mul_reference(gate, up), matrix(&mlp.down, index)) * weight
    })
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::tensor::{DType, Device, TensorData, Tolerance};

    use super::*;
    use crate::kernel::fixture::random;

    /// Token `t` visits `k` distinct experts; expert 1, if there are three or more, is visited by none.
    fn routing(tokens: usize, experts: usize, k: usize, device: &Device) -> Tensor<2, Int> {
        let live: Vec<i64> = (0..experts as i64).filter(|e| experts - k < 2 || *e != 1).collect();
        let chosen = (0..tokens).flat_map(|t| (0..k).map(move |j| (t * 5 + t / 3 + j, j)));
        let chosen = chosen.map(|(i, _)| live[i % live.len()]).collect();
        Tensor::from_data(TensorData::new::<i64, _>(chosen, [tokens, k]), device)
    }

    fn experts(num_experts: usize, width: usize, hidden: usize, device: &Device) -> ExpertWeights {
        ExpertWeights {
            gate: random([num_experts, width, hidden], device),
            up: random([num_experts, width, hidden], device),
            down: random([num_experts, hidden, width], device),
        }
    }

    /// `(num_tokens, num_experts, k, hidden_size, intermediate_size)`.
    const CASES: [(usize, usize, usize, usize, usize); 6] =
        [(1, 1, 1, 1, 1), (1, 8, 2, 16, 24), (5, 4, 1, 7, 9), (9, 3, 3, 8, 5), (60, 4, 2, 33, 17), (700, 5, 2, 8, 40)];

    #[test]
    fn the_kernel_gives_the_output_and_gradients_of_the_reference() {
        let device = Device::flex().autodiff();
        for (tokens, num_experts, k, hidden, width) in CASES {
            let chosen = routing(tokens, num_experts, k, &device);
            let scale = random([tokens, hidden], &device);
            let mlp = experts(num_experts, width, hidden, &device);
            let (x, weights) = (random([tokens, hidden], &device), random([tokens, k], &device));
            let run = |f: fn(Tensor<2>, Tensor<2>, Tensor<2, Int>, ExpertWeights) -> Tensor<2>| {
                let (x, weights) = (x.clone().require_grad(), weights.clone().require_grad());
                let [gate, up, down] = [&mlp.gate, &mlp.up, &mlp.down].map(|w| w.clone().require_grad());
                let leaves = ExpertWeights { gate: gate.clone(), up: up.clone(), down: down.clone() };
                let y = f(x.clone(), weights.clone(), chosen.clone(), leaves);
                let grads = (y.clone() * scale.clone()).sum().backward();
                let mut found = vec![y.inner().into_data()];
                found.extend([&x, &weights].map(|leaf| leaf.grad(&grads).unwrap().into_data()));
                found.extend([&gate, &up, &down].map(|leaf| leaf.grad(&grads).unwrap().into_data()));
                found
            };
            for (found, expected) in run(expert_mlp).iter().zip(&run(expert_mlp_reference)) {
                found.assert_approx_eq::<f32>(expected, Tolerance::rel_abs(2e-4, 2e-3));
            }
        }
    }

    #[test]
    fn half_precision_experts_are_widened() {
        let device = Device::flex();
        for tokens in [2, 90] {
            let wide = experts(4, 24, 16, &device);
            let half = ExpertWeights {
                gate: wide.gate.cast(DType::BF16),
                up: wide.up.cast(DType::BF16),
                down: wide.down.cast(DType::BF16),
            };
            let chosen = routing(tokens, 4, 2, &device);
            let (x, weights) = (random([tokens, 16], &device), random([tokens, 2], &device));
            let found = expert_mlp(x.clone(), weights.clone(), chosen.clone(), half.clone()).into_data();
            let expected = expert_mlp_reference(x, weights, chosen, half).into_data();
            found.assert_approx_eq::<f32>(&expected, Tolerance::rel_abs(1e-4, 1e-3));
        }
    }

    #[test]
    fn a_token_costs_only_the_experts_that_it_visits() {
        let device = Device::flex();
        let (x, weights, chosen) = (random([9, 8], &device), random([9, 2], &device), routing(9, 4, 2, &device));
        let mlp = experts(4, 5, 8, &device);
        let count = |f: fn(Tensor<2>, Tensor<2>, Tensor<2, Int>, ExpertWeights) -> Tensor<2>| {
            crate::kernel::flop_counter::executed_flops(|| f(x.clone(), weights.clone(), chosen.clone(), mlp.clone())).1
        };
        let one_visit = 2 * 3 * 8 * 5;
        assert_eq!(count(expert_mlp), 9 * 2 * one_visit);
        assert_eq!(count(expert_mlp_reference), 9 * 4 * one_visit);
    }

    #[test]
    #[should_panic(expected = "expert_mlp: expert 4 of 4")]
    fn an_expert_that_does_not_exist_is_refused() {
        let device = Device::flex();
        let chosen = Tensor::from_data(TensorData::from([[4]]), &device);
        expert_mlp(random([1, 2], &device), random([1, 1], &device), chosen, experts(4, 3, 2, &device));
    }
}
