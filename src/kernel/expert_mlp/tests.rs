//! Tests of the experts against their reference.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::module::Param;
use burn::tensor::{DType, Device, Distribution, Tensor, TensorData, Tolerance};

use super::*;
use crate::kernel::blocks::BlockFormat;
use crate::kernel::fixture::random;
use crate::kernel::linear::{gated_linear, linear_all};
use crate::kernel::matrix_instructions;
use crate::kernel::quantized_weight::QuantizedWeight;

/// Each token visits `k` distinct experts. No token visits expert 1, if enough others exist.
fn routing(tokens: usize, experts: usize, k: usize, device: &Device) -> Tensor<2, Int> {
    let live: Vec<i64> = (0..experts as i64).filter(|e| experts - k < 2 || *e != 1).collect();
    let chosen = (0..tokens).flat_map(|t| (0..k).map(move |j| (t * 5 + t / 3 + j, j)));
    let chosen = chosen.map(|(i, _)| live[i % live.len()]).collect();
    Tensor::from_data(TensorData::new::<i64, _>(chosen, [tokens, k]), device)
}

/// Gate, up and down of some experts.
fn stacks(num_experts: usize, width: usize, hidden: usize, device: &Device) -> [Tensor<3>; 3] {
    [
        random([num_experts, width, hidden], device),
        random([num_experts, width, hidden], device),
        random([num_experts, hidden, width], device),
    ]
}

/// Experts of the given stacks, which keep their gradients.
fn experts(stacks: [Tensor<3>; 3]) -> Experts {
    let [gate_proj, up_proj, down_proj] = stacks.map(|stack| Param::initialized(Default::default(), stack));
    Experts::Stacked(StackedExperts { gate_proj, up_proj, down_proj })
}

type ExpertMlpFn = fn(Tensor<2>, Tensor<2>, Tensor<2, Int>, &Experts) -> Tensor<2>;

/// `(num_tokens, num_experts, k, hidden_size, intermediate_size)`.
const CASES: [(usize, usize, usize, usize, usize); 6] =
    [(1, 1, 1, 1, 1), (1, 8, 2, 16, 24), (5, 4, 1, 7, 9), (9, 3, 3, 8, 5), (60, 4, 2, 33, 17), (700, 5, 2, 8, 40)];

#[test]
fn the_kernel_gives_the_output_and_gradients_of_the_reference() {
    let device = Device::flex().autodiff();
    for (tokens, num_experts, k, hidden, width) in CASES {
        let chosen = routing(tokens, num_experts, k, &device);
        let scale = random([tokens, hidden], &device);
        let stacks = stacks(num_experts, width, hidden, &device);
        let (x, weights) = (random([tokens, hidden], &device), random([tokens, k], &device));
        let run = |f: ExpertMlpFn| {
            let (x, weights) = (x.clone().require_grad(), weights.clone().require_grad());
            let leaves = stacks.clone().map(Tensor::require_grad);
            let y = f(x.clone(), weights.clone(), chosen.clone(), &experts(leaves.clone()));
            let grads = (y.clone() * scale.clone()).sum().backward();
            let mut found = vec![y.inner().into_data()];
            found.extend([&x, &weights].map(|leaf| leaf.grad(&grads).unwrap().into_data()));
            found.extend(leaves.map(|leaf| leaf.grad(&grads).unwrap().into_data()));
            found
        };
        for (found, expected) in run(expert_mlp).iter().zip(&run(expert_mlp_reference)) {
            found.assert_approx_eq::<f32>(expected, Tolerance::rel_abs(2e-4, 2e-3));
        }
    }
}

/// Grouped experts, each by the products of its weights.
fn grouped(x: Tensor<2>, weights: Tensor<2>, chosen: Tensor<2, Int>, experts: &Experts) -> Tensor<2> {
    expert_mlp_grouped(x, weights, chosen, experts.dims()[0], |index, _, x| {
        let [gate, up, down] = experts.weights(index);
        let [y] = linear_all(gated_linear(x, &gate, &up), [&down]);
        y
    })
}

#[test]
fn frozen_experts_have_no_gradient_and_x_and_weights_keep_theirs() {
    let device = Device::flex().autodiff();
    for f in [expert_mlp as ExpertMlpFn, grouped] {
        let chosen = routing(9, 4, 2, &device);
        let (x, weights) = (random([9, 8], &device).require_grad(), random([9, 2], &device).require_grad());
        let stacks = stacks(4, 5, 8, &device);
        let run = |stacks: [Tensor<3>; 3]| {
            let grads = f(x.clone(), weights.clone(), chosen.clone(), &experts(stacks.clone())).sum().backward();
            let of_inputs = [&x, &weights].map(|leaf| leaf.grad(&grads).unwrap().into_data());
            (of_inputs, stacks.map(|stack| stack.grad(&grads).is_some()))
        };
        let (expected, trained) = run(stacks.clone().map(Tensor::require_grad));
        let (found, frozen) = run(stacks);
        assert_eq!((trained, frozen), ([true; 3], [false; 3]));
        assert_eq!(found, expected);
    }
}

#[test]
fn experts_without_a_token_have_a_gradient_of_exactly_0() {
    let device = Device::flex().autodiff();
    for f in [expert_mlp as ExpertMlpFn, expert_mlp_reference, grouped] {
        for (num_experts, visited) in [(2, 1), (4, 0), (8, 5)] {
            let chosen = Tensor::from_data(TensorData::new(vec![visited as i64; 9], [9, 1]), &device);
            let leaves = stacks(num_experts, 5, 8, &device).map(Tensor::require_grad);
            let (x, weights) = (random([9, 8], &device).require_grad(), random([9, 1], &device));
            let grads = f(x.clone(), weights, chosen, &experts(leaves.clone())).sum().backward();
            let of_inputs = x.grad(&grads).unwrap().into_data();
            assert!(of_inputs.iter::<f32>().all(f32::is_finite));
            for leaf in leaves {
                let grad: Vec<f32> = leaf.grad(&grads).unwrap().into_data().iter::<f32>().collect();
                for (expert, grad) in grad.chunks(grad.len() / num_experts).enumerate() {
                    let is_zero = grad.iter().all(|value| *value == 0.0);
                    assert_eq!(is_zero, expert != visited, "expert {expert} of {num_experts}");
                    assert!(grad.iter().all(|value| value.is_finite()));
                }
            }
        }
    }
}

#[test]
fn no_gradient_of_a_matrix_is_computed_unless_it_is_asked_for() {
    let device = Device::flex();
    let data = |tensor: Tensor<3>| FlexTensor::from_data(tensor.into_data());
    let [gate, up, down] = stacks(4, 5, 8, &device).map(data);
    let tokens = |shape| FlexTensor::from_data(random::<2>(shape, &device).into_data());
    let (x, weights, grad) = (tokens([9, 8]), tokens([9, 2]), tokens([9, 8]));
    let chosen = FlexTensor::from_data(routing(9, 4, 2, &device).into_data());
    let inputs: Inputs<Flex> = [x, weights, gate, up, down];
    let [_, gate_out, up_out] = Flex::expert_mlp_saved(inputs.clone(), chosen.clone());
    let run = |of_matrices| {
        let saved = [gate_out.clone(), up_out.clone()];
        Flex::expert_mlp_backward(grad.clone(), inputs.clone(), chosen.clone(), saved, of_matrices).1.is_some()
    };
    assert!(run(true) && !run(false));
}

#[test]
fn grouped_experts_equal_the_fused_ones_with_their_gradients() {
    let device = Device::flex().autodiff();
    for (tokens, num_experts, k, hidden, width) in CASES {
        let chosen = routing(tokens, num_experts, k, &device);
        let scale = random([tokens, hidden], &device);
        let leaves = stacks(num_experts, width, hidden, &device).map(Tensor::require_grad);
        let (x, weights) =
            (random([tokens, hidden], &device).require_grad(), random([tokens, k], &device).require_grad());
        let run = |f: ExpertMlpFn| {
            let y = f(x.clone(), weights.clone(), chosen.clone(), &experts(leaves.clone()));
            let grads = (y.clone() * scale.clone()).sum().backward();
            let mut found = vec![y.inner().into_data()];
            found.extend([&x, &weights].map(|leaf| leaf.grad(&grads).unwrap().into_data()));
            // Also of an expert that no token visits.
            found.extend(leaves.each_ref().map(|leaf| leaf.grad(&grads).unwrap().into_data()));
            found
        };
        for (found, expected) in run(grouped).iter().zip(&run(expert_mlp)) {
            found.assert_approx_eq::<f32>(expected, Tolerance::rel_abs(2e-4, 2e-3));
        }
    }
}

#[test]
fn half_precision_experts_are_widened() {
    let device = Device::flex();
    for tokens in [2, 90] {
        let half = experts(stacks(4, 24, 16, &device).map(|stack| stack.cast(DType::BF16)));
        let chosen = routing(tokens, 4, 2, &device);
        let (x, weights) = (random([tokens, 16], &device), random([tokens, 2], &device));
        let found = expert_mlp(x.clone(), weights.clone(), chosen.clone(), &half).into_data();
        let expected = expert_mlp_reference(x, weights, chosen, &half);
        let largest = expected.clone().abs().max().into_scalar::<f32>();
        let tolerance = match matrix_instructions() {
            // They round activations, too.
            Some(_) => Tolerance::absolute(0.02 * largest),
            None => Tolerance::rel_abs(1e-4, 1e-3),
        };
        found.assert_approx_eq::<f32>(&expected.into_data(), tolerance);
    }
}

#[test]
fn flops_count_only_visited_experts() {
    let device = Device::flex();
    let (x, weights, chosen) = (random([9, 8], &device), random([9, 2], &device), routing(9, 4, 2, &device));
    let mlp = experts(stacks(4, 5, 8, &device));
    let (_, flops) = crate::trace::executed_flops(|| expert_mlp(x, weights, chosen, &mlp));
    let one_visit = 2 * 3 * 8 * 5;
    assert_eq!(flops, 9 * 2 * one_visit);
}

#[test]
#[should_panic(expected = "expert_mlp: expert 4 of 4")]
fn an_unknown_expert_is_refused() {
    let device = Device::flex();
    let chosen = Tensor::from_data(TensorData::from([[4]]), &device);
    expert_mlp(random([1, 2], &device), random([1, 1], &device), chosen, &experts(stacks(4, 3, 2, &device)));
}

#[test]
fn quantized_experts_equal_the_reference_within_rounding() {
    let device = Device::flex();
    for (tokens, k, hidden, width) in [(1, 2, 64, 96), (7, 3, 32, 64), (150, 2, 64, 32)] {
        let random = |shape: [usize; 2]| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let matrix = |shape: [usize; 2]| {
            let values = random(shape).into_data().try_into_vec::<f32>().unwrap();
            QuantizedWeight::quantize(BlockFormat::Q8_0, shape, &values, &device)
        };
        let expert = |_| QuantizedExpert {
            gate: matrix([width, hidden]),
            up: matrix([width, hidden]),
            down: matrix([hidden, width]),
        };
        let mlp = Experts::Quantized(QuantizedExperts::new((0..4).map(expert).collect()));
        let chosen = (0..tokens * k).map(|i| (i / k + i % k) as i64 % 4).collect();
        let chosen = Tensor::from_data(TensorData::new::<i64, _>(chosen, [tokens, k]), &device);
        let (x, weights) = (random([tokens, hidden]), random([tokens, k]));
        let found = expert_mlp(x.clone(), weights.clone(), chosen.clone(), &mlp);
        let expected = expert_mlp_reference(x, weights, chosen, &mlp);
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

#[test]
fn quantized_experts_pass_on_the_gradients_of_their_values() {
    let device = Device::flex().autodiff();
    let matrix = |shape: [usize; 2]| {
        let values = random::<2>(shape, &device).into_data().try_into_vec::<f32>().unwrap();
        QuantizedWeight::quantize(BlockFormat::Q8_0, shape, &values, &device)
    };
    let expert = |_| QuantizedExpert { gate: matrix([32, 64]), up: matrix([32, 64]), down: matrix([64, 32]) };
    let quantized = Experts::Quantized(QuantizedExperts::new((0..4).map(expert).collect()));
    let stack = |at: usize| Tensor::stack((0..4).map(|index| quantized.floats(index)[at].clone()).collect(), 0);
    let values = experts([stack(0), stack(1), stack(2)]);
    let chosen = routing(9, 4, 2, &device);
    let (x, weights) = (random([9, 64], &device).require_grad(), random([9, 2], &device).require_grad());
    let run = |experts: &Experts| {
        let y = expert_mlp(x.clone(), weights.clone(), chosen.clone(), experts);
        let grads = y.clone().sum().backward();
        [y.inner().into_data(), x.grad(&grads).unwrap().into_data(), weights.grad(&grads).unwrap().into_data()]
    };
    for (found, expected) in run(&quantized).iter().zip(&run(&values)) {
        found.assert_approx_eq::<f32>(expected, Tolerance::rel_abs(1e-3, 1e-2));
    }
}
