//! The reference of each operation, and the public function, which has a kernel on some devices; gradients included.

use burn::module::Param;
use burn::tensor::activation::softmax;
use burn::tensor::{DType, Device, Int, Tensor};

use crate::device::check::{
    OPERATIONS_IN_BFLOAT16, OPERATIONS_IN_FLOAT16, Operation, TOLERANCE_OF_FLOAT16, flat, numbers, tokens,
};
use crate::kernel::adamw::{AdamWState, AdamWStep, adamw, adamw_reference, sum_of_squares};
use crate::kernel::attention::{
    Cache, CausalMask, attention, attention_reference, cached_attention, cached_attention_reference,
};
use crate::kernel::blocks::BlockFormat;
use crate::kernel::embedding::{embedding, embedding_reference};
use crate::kernel::expert_mlp::{Experts, StackedExperts, expert_mlp, expert_mlp_grouped, expert_mlp_reference};
use crate::kernel::linear::{
    Weight, gated_linear, gated_linear_reference, linear, linear_add, linear_add_reference, linear_all,
    linear_reference,
};
use crate::kernel::linear_cross_entropy::{linear_cross_entropy, linear_cross_entropy_reference};
use crate::kernel::quantized_weight::QuantizedWeight;
use crate::kernel::rms_norm::{rms_norm, rms_norm_reference};
use crate::kernel::rope::{rope, rope_reference};
use crate::kernel::silu_mul::{silu_mul, silu_mul_reference};
use crate::kernel::top_k_softmax::{top_k_softmax, top_k_softmax_reference};

/// The output, and the gradients of `Σ y ∘ scale` with respect to the leaves.
fn gradients<const N: usize, const D: usize>(
    leaves: [Tensor<2>; N],
    f: impl FnOnce([Tensor<2>; N]) -> Tensor<D>,
) -> Vec<f32> {
    let leaves = leaves.map(Tensor::require_grad);
    let y = f(leaves.clone());
    let scale = numbers(9, y.dims(), &y.device());
    let grads = (y.clone() * scale).sum().backward();
    let mut found = flat(y.inner());
    found.extend(leaves.iter().flat_map(|leaf| flat(leaf.grad(&grads).expect("y depends on the leaf"))));
    found
}

/// Matrices of `[rows, columns]` on a device that records gradients.
fn leaves<const N: usize>(shapes: [[usize; 2]; N], device: &Device) -> [Tensor<2>; N] {
    let device = device.clone().autodiff();
    std::array::from_fn(|salt| numbers(salt, shapes[salt], &device))
}

fn of_linear(
    f: fn(Tensor<2>, Tensor<2>) -> Tensor<2>,
    [rows, inner, columns]: [usize; 3],
    device: &Device,
) -> Vec<f32> {
    gradients(leaves([[rows, inner], [columns, inner]], device), |[x, weight]| f(x, weight))
}

fn of_gated(f: fn(Tensor<2>, &Weight, &Weight) -> Tensor<2>, device: &Device) -> Vec<f32> {
    gradients(leaves([[9, 24], [37, 24], [37, 24]], device), |[x, gate, up]| f(x, &gate.into(), &up.into()))
}

fn of_added(f: fn(Tensor<2>, Tensor<2>, &Weight) -> Tensor<2>, device: &Device) -> Vec<f32> {
    gradients(leaves([[9, 37], [9, 24], [37, 24]], device), |[residual, x, weight]| f(residual, x, &weight.into()))
}

fn of_rms_norm(f: fn(Tensor<2>, Tensor<1>, f64) -> Tensor<2>, device: &Device) -> Vec<f32> {
    gradients(leaves([[35, 64], [1, 64]], device), |[x, weight]| f(x, weight.reshape([64]), 1e-5))
}

fn of_silu_mul(f: fn(Tensor<2>, Tensor<2>) -> Tensor<2>, device: &Device) -> Vec<f32> {
    gradients(leaves([[9, 37], [9, 37]], device), |[gate, up]| f(gate * 4.0, up))
}

fn of_rope(f: fn(Tensor<4>, Tensor<3>, Tensor<3>) -> Tensor<4>, device: &Device) -> Vec<f32> {
    gradients(leaves([[2 * 5 * 3, 8]], device), |[x]| {
        let [cos, sin] = [1, 2].map(|salt| numbers(salt, [2, 5, 4], &x.device()));
        f(x.reshape([2, 5, 3, 8]), cos, sin)
    })
}

fn of_embedding(f: fn(Tensor<2>, Tensor<2, Int>) -> Tensor<3>, device: &Device) -> Vec<f32> {
    gradients(leaves([[37, 24]], device), |[table]| {
        let tokens = tokens([2, 9], 37, &table.device());
        f(table, tokens)
    })
}

type Attention = fn(Tensor<4>, Tensor<4>, Tensor<4>, &CausalMask) -> Tensor<4>;

fn of_attention(f: Attention, mask: impl Fn(&Device) -> CausalMask, device: &Device) -> Vec<f32> {
    let [batch, queries, capacity, heads, kv_heads, width] = [2, 7, 13, 6, 2, 8];
    let kv = [batch * capacity * kv_heads, width];
    gradients(leaves([[batch * queries * heads, width], kv, kv], device), |[q, k, v]| {
        let mask = mask(&q.device());
        let [k, v] = [k, v].map(|x| x.reshape([batch, capacity, kv_heads, width]));
        f(q.reshape([batch, queries, heads, width]) * 3.0, k, v, &mask)
    })
}

fn square(_: &Device) -> CausalMask {
    CausalMask::band(0, None)
}

fn window(_: &Device) -> CausalMask {
    CausalMask::band(5, Some(4))
}

/// A sequence of two documents, and a shorter one behind cached keys.
fn ragged(device: &Device) -> CausalMask {
    let documents = (0..7).map(|i| if i < 3 { 0..i + 1 } else { 3..i + 1 }).collect();
    CausalMask::ragged(&[documents, (0..4).map(|i| 0..i + 9).collect()], device)
}

type Cached = fn([Tensor<4>; 3], [Tensor<3>; 2], Cache, &CausalMask) -> (Tensor<4>, Cache);

fn of_cache(f: Cached, mask: impl Fn(&Device) -> CausalMask, device: &Device) -> Vec<f32> {
    let new = [(0, 6), (1, 2), (2, 2)].map(|(salt, heads)| numbers(salt, [2, 7, heads, 8], device));
    let angles = [3, 4].map(|salt| numbers(salt, [2, 7, 4], device));
    let [keys, values] = [5, 6].map(|salt| numbers(salt, [2, 13, 2, 8], device));
    let (y, Cache { keys, values }) = f(new, angles, Cache { keys, values }, &mask(device));
    [flat(y), flat(keys), flat(values)].concat()
}

fn of_cross_entropy(f: fn(Tensor<2>, &Weight, Tensor<1, Int>) -> Tensor<1>, device: &Device) -> Vec<f32> {
    gradients(leaves([[35, 24], [513, 24]], device), |[hidden, weight]| {
        let targets = tokens([1, 35], 513, &hidden.device()).reshape([35]);
        f(hidden, &weight.into(), targets)
    })
}

type ExpertMlp = fn(Tensor<2>, Tensor<2>, Tensor<2, Int>, &Experts) -> Tensor<2>;

fn of_experts(f: ExpertMlp, device: &Device) -> Vec<f32> {
    of_experts_as(Experts::Stacked, [7, 6], f, device)
}

fn of_experts_as(
    precision: fn(StackedExperts) -> Experts,
    [width, hidden]: [usize; 2],
    f: ExpertMlp,
    device: &Device,
) -> Vec<f32> {
    let matrices = [[5 * width, hidden], [5 * width, hidden], [5 * hidden, width]];
    let shapes = [[19, hidden], [19, 5], matrices[0], matrices[1], matrices[2]];
    gradients(leaves(shapes, device), |[x, scores, gate, up, down]| {
        let stack =
            |matrices: Tensor<2>, shape: [usize; 3]| Param::initialized(Default::default(), matrices.reshape(shape));
        let experts = precision(StackedExperts {
            gate_proj: stack(gate, [5, width, hidden]),
            up_proj: stack(up, [5, width, hidden]),
            down_proj: stack(down, [5, hidden, width]),
        });
        let (scores, chosen) = scores.topk_with_indices(2, 1);
        f(x, softmax(scores, 1), chosen, &experts)
    })
}

fn grouped(x: Tensor<2>, weights: Tensor<2>, chosen: Tensor<2, Int>, experts: &Experts) -> Tensor<2> {
    expert_mlp_grouped(x, weights, chosen, experts.dims()[0], |index, _, x| {
        let [gate, up, down] = experts.weights(index);
        let [y] = linear_all(gated_linear(x, &gate, &up), [&down]);
        y
    })
}

fn of_adamw(f: fn(AdamWState<2>, Tensor<2>, AdamWStep) -> AdamWState<2>, device: &Device) -> Vec<f32> {
    let [param, moment1, root] = [0, 1, 2].map(|salt| numbers::<2>(salt, [33, 7], device));
    let mut state = AdamWState { param, moment1, moment2: root.square() };
    for step in 3..6 {
        let scalars = AdamWStep {
            learning_rate: 0.1,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            step,
            gradient_scale: 0.5,
        };
        state = f(state, numbers(step as usize, [33, 7], device), scalars);
    }
    [flat(state.param), flat(state.moment1), flat(state.moment2)].concat()
}

fn of_top_k(f: fn(Tensor<2>, usize) -> (Tensor<2>, Tensor<2, Int>), device: &Device) -> Vec<f32> {
    gradients(leaves([[33, 7]], device), |[scores]| f(scores * 4.0, 3).0)
}

/// The values of a quantized weight.
fn of_blocks(device: &Device) -> Vec<f32> {
    let values = flat(numbers::<2>(0, [5, 64], &Device::flex()));
    let weight = QuantizedWeight::quantize(BlockFormat::Q8_0, [5, 64], &values, device);
    [flat(weight.dequantize()), flat(weight.rows(tokens([2, 3], 5, device)))].concat()
}

const OPERATIONS: [Operation; 36] = [
    ("linear, reference", |device| of_linear(linear_reference, [33, 24, 37], device)),
    ("linear", |device| of_linear(linear, [33, 24, 37], device)),
    ("linear of one row, reference", |device| of_linear(linear_reference, [1, 64, 130], device)),
    ("linear of one row", |device| of_linear(linear, [1, 64, 130], device)),
    ("gated_linear, reference", |device| of_gated(gated_linear_reference, device)),
    ("gated_linear", |device| of_gated(gated_linear, device)),
    ("linear_add, reference", |device| of_added(linear_add_reference, device)),
    ("linear_add", |device| of_added(linear_add, device)),
    ("rms_norm, reference", |device| of_rms_norm(rms_norm_reference, device)),
    ("rms_norm", |device| of_rms_norm(rms_norm, device)),
    ("silu_mul, reference", |device| of_silu_mul(silu_mul_reference, device)),
    ("silu_mul", |device| of_silu_mul(silu_mul, device)),
    ("rope, reference", |device| of_rope(rope_reference, device)),
    ("rope", |device| of_rope(rope, device)),
    ("embedding, reference", |device| of_embedding(embedding_reference, device)),
    ("embedding", |device| of_embedding(embedding, device)),
    ("attention, reference", |device| of_attention(attention_reference, square, device)),
    ("attention", |device| of_attention(attention, square, device)),
    ("attention with a window, reference", |device| of_attention(attention_reference, window, device)),
    ("attention with a window", |device| of_attention(attention, window, device)),
    ("ragged attention, reference", |device| of_attention(attention_reference, ragged, device)),
    ("ragged attention", |device| of_attention(attention, ragged, device)),
    ("cached_attention, reference", |device| of_cache(cached_attention_reference, window, device)),
    ("cached_attention", |device| of_cache(cached_attention, window, device)),
    ("ragged cached_attention", |device| of_cache(cached_attention, ragged, device)),
    ("linear_cross_entropy, reference", |device| of_cross_entropy(linear_cross_entropy_reference, device)),
    ("linear_cross_entropy", |device| of_cross_entropy(linear_cross_entropy, device)),
    ("top_k_softmax, reference", |device| of_top_k(top_k_softmax_reference, device)),
    ("top_k_softmax", |device| of_top_k(top_k_softmax, device)),
    ("expert_mlp, reference", |device| of_experts(expert_mlp_reference, device)),
    ("expert_mlp", |device| of_experts(expert_mlp, device)),
    ("expert_mlp, grouped", |device| of_experts(grouped, device)),
    ("adamw, reference", |device| of_adamw(adamw_reference, device)),
    ("adamw", |device| of_adamw(adamw, device)),
    ("sum_of_squares", |device| vec![sum_of_squares(numbers::<2>(0, [33, 7], device)) as f32]),
    ("a quantized weight", of_blocks),
];

#[test]
fn references_and_functions_give_the_numbers_of_flex() {
    super::assert_equal_to_flex(&OPERATIONS);
}

/// A product with a weight that is read in bfloat16.
fn of_bfloat16(device: &Device) -> Vec<f32> {
    gradients(leaves([[33, 24], [37, 24]], device), |[x, weight]| linear(x, weight.cast(DType::BF16)))
}

/// Attention to a cache that gets keys and values as products with bfloat16 weights give them.
fn of_cache_in_bfloat16(device: &Device) -> Vec<f32> {
    let attend: Cached = |new, angles, cache, mask| {
        let identity = Weight::from(Tensor::<2>::eye(8, &new[0].device()).cast(DType::BF16));
        let new = new.map(|x| linear_all(x, [&identity])).map(|[x]| x);
        cached_attention(new, angles, cache, mask)
    };
    of_cache(attend, ragged, device)
}

const IN_BFLOAT16: [Operation; 4] = [
    ("linear", of_bfloat16),
    ("ragged cached_attention", of_cache_in_bfloat16),
    ("expert_mlp", |device| of_experts_as(Experts::Mixed, [16, 24], expert_mlp, device)),
    ("expert_mlp of odd sizes", |device| of_experts_as(Experts::Mixed, [7, 6], expert_mlp, device)),
];

/// Every form of product with weights that are read in float16.
fn of_products_in_float16(device: &Device) -> Vec<f32> {
    let [x, residual] = [(0, 24), (1, 37)].map(|(salt, columns)| numbers::<2>(salt, [33, columns], device));
    let weights = [2, 3, 4].map(|salt| Weight::from(numbers::<2>(salt, [37, 24], device).cast(DType::F16)));
    let [gate, up, other] = &weights;
    let [q, k, v] = linear_all(x.clone(), [gate, up, other]);
    let (sum, hidden) = (linear_add(residual, x.clone(), other), gated_linear(x, gate, up));
    [q, k, v, sum, hidden].map(flat).concat()
}

const IN_FLOAT16: [Operation; 2] = [
    ("linear", |device| {
        gradients(leaves([[33, 24], [37, 24]], device), |[x, weight]| linear(x, weight.cast(DType::F16)))
    }),
    ("all forms of product", of_products_in_float16),
];

#[test]
fn weights_in_bfloat16_give_the_numbers_of_flex_within_their_rounding() {
    assert_within(DType::BF16, 0.02, &[IN_BFLOAT16.as_slice(), &OPERATIONS_IN_BFLOAT16].concat());
}

#[test]
fn weights_in_float16_give_the_numbers_of_flex_within_their_rounding() {
    assert_within(DType::F16, TOLERANCE_OF_FLOAT16, &[IN_FLOAT16.as_slice(), &OPERATIONS_IN_FLOAT16].concat());
}

/// Runs the operations on the devices that have a type.
fn assert_within(rounding_of: DType, rounding: f32, operations: &[Operation]) {
    for (name, device) in super::present() {
        if !device.supports_dtype(rounding_of) || super::device(&name).is_err() {
            eprintln!("{name} is not tested in {rounding_of:?}");
            continue;
        }
        for (operation, run) in operations {
            let (found, expected) = (run(&device), run(&Device::flex()));
            let largest = expected.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
            let distances = found.iter().zip(&expected).map(|(a, b)| (a - b).abs() / largest);
            let worst = distances.fold(0.0, |worst: f32, d| if d <= worst { worst } else { d });
            eprintln!("{name}: {operation} within {worst:e}");
            assert!(worst <= rounding && found.len() == expected.len(), "{operation} on {name}: {worst:e}");
        }
    }
}
