//! Experts whose matrices stay in blocks of integers.

use std::sync::Arc;

use burn::tensor::{Int, Tensor};

use super::{ExpertWeights, assert_routing, expert_mlp_reference};
use crate::kernel::quantized_linear::{QuantizedMatrix, dequantized};

/// The matrices of one expert.
#[derive(Debug, Clone)]
pub struct QuantizedExpert {
    /// `[intermediate_size, hidden_size]`.
    pub gate: Arc<QuantizedMatrix>,
    /// `[intermediate_size, hidden_size]`.
    pub up: Arc<QuantizedMatrix>,
    /// `[hidden_size, intermediate_size]`.
    pub down: Arc<QuantizedMatrix>,
}

/// [`expert_mlp`](super::expert_mlp) with quantized experts; activations are rounded as in
/// [`quantized_linear`](crate::kernel::quantized_linear::quantized_linear). Has no gradients.
///
/// # Shapes
/// - `x`, result: `[num_tokens, hidden_size]`
/// - `weights`, `experts`: `[num_tokens, num_experts_per_tok]`; the experts of a token are distinct
///
/// # Panics
/// If the sizes disagree, an expert does not exist, or there are none.
pub fn quantized_expert_mlp(
    x: Tensor<2>,
    weights: Tensor<2>,
    experts: Tensor<2, Int>,
    mlp: &[QuantizedExpert],
) -> Tensor<2> {
    let [num_tokens, hidden_size] = x.dims();
    let width = mlp[0].gate.dims()[0];
    assert_routing(num_tokens, &weights, &experts);
    for expert in mlp {
        let dims = [expert.gate.dims(), expert.up.dims(), expert.down.dims()];
        let expected = [[width, hidden_size], [width, hidden_size], [hidden_size, width]];
        assert_eq!(dims, expected, "expert_mlp: gate, up and down");
    }
    #[cfg(feature = "flex")]
    if crate::kernel::has_kernel(&x.device()) && !x.device().is_autodiff() {
        return flex::quantized_expert_mlp(x, weights, experts, mlp);
    }
    quantized_expert_mlp_reference(x, weights, experts, mlp)
}

/// The same with the numbers that the blocks stand for, in float32.
pub fn quantized_expert_mlp_reference(
    x: Tensor<2>,
    weights: Tensor<2>,
    experts: Tensor<2, Int>,
    mlp: &[QuantizedExpert],
) -> Tensor<2> {
    let device = x.device();
    let stack = |of: fn(&QuantizedExpert) -> &QuantizedMatrix| {
        Tensor::stack(mlp.iter().map(|expert| dequantized(of(expert), &device)).collect(), 0)
    };
    let mlp = ExpertWeights { gate: stack(|e| &e.gate), up: stack(|e| &e.up), down: stack(|e| &e.down) };
    expert_mlp_reference(x, weights, experts, mlp)
}

#[cfg(feature = "flex")]
mod flex {
    use burn::backend::{Flex, TensorMetadata};
    use burn::tensor::{Int, Tensor};

    use super::super::flex::{Visits, infer};
    use super::QuantizedExpert;
    use crate::kernel::cpu::{Matrix, dense, tensor, values};

    pub fn quantized_expert_mlp(
        x: Tensor<2>,
        weights: Tensor<2>,
        experts: Tensor<2, Int>,
        mlp: &[QuantizedExpert],
    ) -> Tensor<2> {
        let float = |x: Tensor<2>| dense(x.try_into_primitive::<Flex>().expect("asked for its device before"));
        let (x, weights) = (float(x), float(weights));
        let experts = experts.try_into_primitive::<Flex>().expect("on the device of x");
        let visits = Visits::sort(&experts, mlp.len());
        let [width, hidden] = mlp[0].gate.dims();
        let expert = |index: usize| {
            let QuantizedExpert { gate, up, down } = &mlp[index];
            [gate, up, down].map(|matrix| Matrix::Quantized(matrix))
        };
        let y = infer(&visits, values(&x), values(&weights), [width, hidden], expert);
        Tensor::from_primitive::<Flex>(tensor(y, x.shape()))
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::tensor::{Device, Distribution, TensorData};

    use super::*;
    use crate::kernel::quantized_linear::BlockFormat;

    #[test]
    fn quantized_experts_give_the_output_of_the_reference_within_the_rounding_of_activations() {
        let device = Device::flex();
        for (tokens, k, hidden, width) in [(1, 2, 64, 96), (7, 3, 32, 64), (150, 2, 64, 32)] {
            let random = |shape: [usize; 2]| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &device);
            let matrix = |shape: [usize; 2]| {
                let values = random(shape).into_data().try_into_vec::<f32>().unwrap();
                Arc::new(QuantizedMatrix::quantize(BlockFormat::Q8_0, shape, &values))
            };
            let expert = |_| QuantizedExpert {
                gate: matrix([width, hidden]),
                up: matrix([width, hidden]),
                down: matrix([hidden, width]),
            };
            let mlp: Vec<_> = (0..4).map(expert).collect();
            let chosen = (0..tokens * k).map(|i| (i / k + i % k) as i64 % 4).collect();
            let chosen = Tensor::from_data(TensorData::new::<i64, _>(chosen, [tokens, k]), &device);
            let (x, weights) = (random([tokens, hidden]), random([tokens, k]));
            let found = quantized_expert_mlp(x.clone(), weights.clone(), chosen.clone(), &mlp);
            let expected = quantized_expert_mlp_reference(x, weights, chosen, &mlp);
            let scale = expected.clone().abs().mean().into_scalar::<f32>();
            let error = (found.clone() - expected.clone()).abs().mean().into_scalar::<f32>();
            assert!(error < 0.02 * scale, "{tokens} tokens: mean error {error} of {scale}");
            assert!(error > 0.0, "the kernel ran, which rounds");
            let norms = |t: Tensor<2>| t.powi_scalar(2).sum_dim(1).sqrt();
            let of_tokens = norms(found - expected.clone()) / norms(expected);
            let worst = of_tokens.max().into_scalar::<f32>();
            assert!(worst < 0.1, "{tokens} tokens: error {worst} of a token's output");
        }
    }
}
