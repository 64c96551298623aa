//! Whether a device computes what Flex does: operations of a decoder, once each, on small inputs of odd sizes.
//!
//! A faulty backend or driver gives wrong numbers without an error. The kernels compiled for the check are those that a model
//! runs, so little of its time is lost.

use burn::module::Param;
use burn::tensor::activation::softmax;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use half::f16;

use crate::kernel::adamw::{AdamWState, AdamWStep, adamw};
use crate::kernel::attention::{Cache, CausalMask, attention, cached_attention};
use crate::kernel::blocks::BlockFormat;
use crate::kernel::embedding::embedding;
use crate::kernel::expert_mlp::{Experts, StackedExperts, expert_mlp};
use crate::kernel::graph::{self, Graph, Input};
use crate::kernel::linear::{
    Weight, gated_linear, keeps_bfloat16, linear, linear_add, linear_all, type_of_activations,
};
use crate::kernel::linear_cross_entropy::linear_cross_entropy;
use crate::kernel::quantized_weight::QuantizedWeight;
use crate::kernel::rms_norm::rms_norm;
use crate::kernel::rope::rope;
use crate::kernel::top_k_softmax::top_k_softmax;

/// Largest difference allowed, in units of the largest number of the result; TF32 has 1e-3 of a product, less of a sum.
pub const TOLERANCE: f32 = 2e-3;

/// The same of products that read float16: rounded to nearest they differ by 1.3e-4, toward zero by 9e-4, to bfloat16 by 1.6e-3.
pub const TOLERANCE_OF_FLOAT16: f32 = 1e-3;

/// The same of products that read bfloat16: Flex does not round the activations, others do, to 8 bits.
const TOLERANCE_OF_BFLOAT16: f32 = 2e-2;

/// An operation whose result a device gets wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    pub operation: &'static str,
    /// Position in the result, row-major.
    pub index: usize,
    pub found: f32,
    pub expected: f32,
}

/// An operation on inputs that are the same on every device.
pub type Operation = (&'static str, fn(&Device) -> Vec<f32>);

/// Operations of a decoder: forward, and for those that have a backward pass of their own on some device also backward.
const OPERATIONS: [Operation; 22] = [
    ("embedding", |device| flat(embedding(numbers(0, [37, 24], device), tokens([2, 5], 37, device)))),
    ("rms_norm", |device| flat(rms_norm(numbers::<2>(0, [7, 24], device), numbers(1, [24], device), 1e-5))),
    ("linear", |device| flat(linear(numbers::<2>(0, [33, 24], device), numbers(1, [37, 24], device)))),
    ("linear of one row", |device| flat(linear(numbers::<2>(0, [1, 24], device), numbers(1, [37, 24], device)))),
    ("linear of quantized weights", of_quantized),
    ("values of quantized weights", of_blocks),
    ("gated_linear", |device| {
        let [gate, up] = [1, 2].map(|salt| Weight::from(numbers(salt, [37, 24], device)));
        flat(gated_linear(numbers::<2>(0, [5, 24], device), &gate, &up))
    }),
    ("rope", |device| {
        let [cos, sin] = [1, 2].map(|salt| numbers(salt, [1, 5, 4], device));
        flat(rope(numbers(0, [2, 5, 3, 8], device), cos, sin))
    }),
    ("attention", |device| of_attention(&CausalMask::band(0, None), 7, device)[0].clone()),
    ("attention, gradient of queries", |device| of_attention(&CausalMask::band(0, None), 7, device)[1].clone()),
    ("attention, gradient of keys", |device| of_attention(&CausalMask::band(0, None), 7, device)[2].clone()),
    ("attention, gradient of values", |device| of_attention(&CausalMask::band(0, None), 7, device)[3].clone()),
    ("attention with a window", |device| of_attention(&CausalMask::band(4, Some(5)), 7, device)[0].clone()),
    ("attention of one query", |device| of_attention(&CausalMask::band(11, None), 1, device)[0].clone()),
    ("attention of sequences of different lengths", |device| {
        let mask =
            CausalMask::ragged(&[(0..7).map(|i| 0..i + 1).collect(), (0..3).map(|i| 0..i + 10).collect()], device);
        of_attention(&mask, 7, device)[0].clone()
    }),
    ("attention with a cache, captured", |device| of_captured_attention(Weight::from, device)),
    ("top_k_softmax", |device| {
        let (weights, experts) = top_k_softmax(numbers::<2>(0, [9, 5], device) * 4.0, 2);
        [flat(weights), flat(experts.float())].concat()
    }),
    ("expert_mlp", |device| {
        let (scores, chosen) = (numbers::<2>(0, [9, 5], device) * 4.0).topk_with_indices(2, 1);
        flat(expert_mlp(numbers(1, [9, 6], device), softmax(scores, 1), chosen, &experts(5, 7, 6, device)))
    }),
    ("linear_cross_entropy", |device| of_cross_entropy(Weight::from, device)[0].clone()),
    ("linear_cross_entropy, gradient of states", |device| of_cross_entropy(Weight::from, device)[1].clone()),
    ("linear_cross_entropy, gradient of the head", |device| of_cross_entropy(Weight::from, device)[2].clone()),
    ("adamw", |device| {
        let [param, moment1, root, grad] = [0, 1, 2, 3].map(|salt| numbers::<2>(salt, [5, 7], device));
        let state = AdamWState { param, moment1, moment2: root.square() };
        flat(adamw(state, grad, STEP).param)
    }),
];

/// Operations where the device has bfloat16.
pub const OPERATIONS_IN_BFLOAT16: [Operation; 15] = [
    ("linear in bfloat16", |device| {
        flat(linear(numbers::<2>(0, [33, 24], device), numbers(1, [37, 24], device).cast(DType::BF16)))
    }),
    ("layer in bfloat16", |device| of_layer_in_bfloat16(device)[0].clone()),
    ("layer in bfloat16, gradient of states", |device| of_layer_in_bfloat16(device)[1].clone()),
    ("layer in bfloat16, gradient of a weight", |device| of_layer_in_bfloat16(device)[2].clone()),
    ("attention in bfloat16", |device| of_attention_in_bfloat16(device)[0].clone()),
    ("attention in bfloat16, gradient of queries", |device| of_attention_in_bfloat16(device)[1].clone()),
    ("attention in bfloat16, gradient of keys", |device| of_attention_in_bfloat16(device)[2].clone()),
    ("attention in bfloat16, gradient of values", |device| of_attention_in_bfloat16(device)[3].clone()),
    ("attention with a cache in bfloat16, captured", |device| {
        of_captured_attention(|weight| in_bfloat16(weight * 0.2), device)
    }),
    ("expert_mlp in bfloat16", |device| of_experts_in_bfloat16(device)[0].clone()),
    ("expert_mlp in bfloat16, gradient of states", |device| of_experts_in_bfloat16(device)[1].clone()),
    ("expert_mlp in bfloat16, gradient of a matrix", |device| of_experts_in_bfloat16(device)[2].clone()),
    ("linear_cross_entropy in bfloat16", |device| of_cross_entropy(in_bfloat16, device)[0].clone()),
    ("linear_cross_entropy in bfloat16, gradient of states", |device| of_cross_entropy(in_bfloat16, device)[1].clone()),
    ("linear_cross_entropy in bfloat16, gradient of the head", |device| {
        of_cross_entropy(in_bfloat16, device)[2].clone()
    }),
];

/// Operations where the device has float16. The results of products, logits included, exceed 65504, its largest number.
pub const OPERATIONS_IN_FLOAT16: [Operation; 5] = [
    ("linear in float16", |device| of_float16(33, device)),
    ("linear in float16 of one row", |device| of_float16(1, device)),
    ("linear_add in float16", |device| {
        let [residual, x, weight] = [(2, [33, 37]), (0, [33, 24]), (1, [37, 24])]
            .map(|(salt, shape)| numbers::<2>(salt, shape, device) * 300.0);
        flat(linear_add(residual, x, &weight.cast(DType::F16).into()))
    }),
    ("linear_cross_entropy in float16", |device| {
        of_cross_entropy(|weight| (weight * 3e4).cast(DType::F16).into(), device)[0].clone()
    }),
    ("overflow of float16", of_overflow),
];

fn of_float16(rows: usize, device: &Device) -> Vec<f32> {
    let [x, weight] = [(0, rows), (1, 37)].map(|(salt, rows)| numbers::<2>(salt, [rows, 24], device) * 300.0);
    flat(linear(x, weight.cast(DType::F16)))
}

/// Whether results are finite, 1 or 0, of rows of which some have an activation beyond float16. A conversion that rounds it to a finite
/// number would give wrong logits without an error. Where activations stay float32, the results that are expected of others.
fn of_overflow(device: &Device) -> Vec<f32> {
    if type_of_activations(DType::F16, device) == DType::F32 {
        return vec![0.0, 0.0, 1.0];
    }
    let x = Tensor::<2>::from_data([[1.0, 7e4], [1.0, -7e4], [1.0, 6e4]], device);
    let y = linear(x, Tensor::<2>::ones([1, 2], device).cast(DType::F16));
    flat(y).into_iter().map(|y| f32::from(u8::from(y.is_finite()))).collect()
}

/// A weight that products read in bfloat16.
fn in_bfloat16(weight: Tensor<2>) -> Weight {
    weight.cast(DType::BF16).into()
}

/// Experts whose matrices are read in bfloat16, with enough rows for the kernel on tensor cores; and the gradients of their input and
/// of the gate matrices.
fn of_experts_in_bfloat16(device: &Device) -> [Vec<f32>; 3] {
    const NUM_TOKENS: usize = 70;
    const NUM_EXPERTS: usize = 4;
    const WIDTH: usize = 24;
    const HIDDEN: usize = 40;
    let device = device.clone().autodiff();
    let matrix = |salt, shape: [usize; 2]| (numbers::<2>(salt, shape, &device) * 0.2).detach().require_grad();
    let states = matrix(0, [NUM_TOKENS, HIDDEN]);
    let [gate, up, down] = [(1, WIDTH, HIDDEN), (2, WIDTH, HIDDEN), (3, HIDDEN, WIDTH)]
        .map(|(salt, rows, columns)| (matrix(salt, [NUM_EXPERTS * rows, columns]), rows, columns));
    let stack = |(leaf, rows, columns): &(Tensor<2>, usize, usize)| {
        Param::initialized(Default::default(), leaf.clone().reshape([NUM_EXPERTS, *rows, *columns]))
    };
    let experts =
        Experts::Mixed(StackedExperts { gate_proj: stack(&gate), up_proj: stack(&up), down_proj: stack(&down) });
    // The last expert has few visits.
    let (scores, chosen) = (numbers::<2>(4, [NUM_TOKENS, NUM_EXPERTS], &device)
        - Tensor::<1>::from_data([0.0, 0.0, 0.0, 0.9], &device).unsqueeze())
    .topk_with_indices(2, 1);
    let y = expert_mlp(states.clone() * 5.0, softmax(scores, 1), chosen, &experts);
    let gradients = (y.clone() * numbers(5, y.dims(), &device)).sum().backward();
    let of = |leaf: &Tensor<2>| flat(leaf.grad(&gradients).expect("a leaf of the result"));
    [flat(y.inner()), of(&states), of(&gate.0)]
}

/// Attention and a gated MLP whose weights are read in bfloat16, with their residuals; and the gradients of their input and of the
/// weight of the keys. The weights are small, so that rounding is not amplified. Queries are enough, and heads wide enough, for the
/// kernels on tensor cores, of which a head has several tiles.
fn of_layer_in_bfloat16(device: &Device) -> [Vec<f32>; 3] {
    const HIDDEN: usize = 24;
    const LEN: usize = 70;
    const WIDTH: usize = 16;
    let device = device.clone().autodiff();
    let matrix = |salt, shape: [usize; 2]| numbers::<2>(salt, shape, &device) * 0.2;
    let [states, of_keys] =
        [(0, 2 * LEN), (1, 2 * WIDTH)].map(|(salt, rows)| matrix(salt, [rows, HIDDEN]).detach().require_grad());
    let [of_queries, of_values, gate, up] = [(2, 6 * WIDTH), (3, 2 * WIDTH), (4, 32), (5, 32)]
        .map(|(salt, rows)| in_bfloat16(matrix(salt, [rows, HIDDEN])));
    let [output, down] = [(6, 6 * WIDTH), (7, 32)].map(|(salt, columns)| in_bfloat16(matrix(salt, [HIDDEN, columns])));

    let [q, k, v] = linear_all(states.clone() * 5.0, [&of_queries, &in_bfloat16(of_keys.clone()), &of_values]);
    let [q, k, v] = [(q, 6), (k, 2), (v, 2)].map(|(x, heads)| x.reshape([2, LEN, heads, WIDTH]));
    let [cos, sin] = [8, 9].map(|salt| numbers(salt, [1, LEN, WIDTH / 2], &device));
    let [q, k] = [q, k].map(|x| rope(x, cos.clone(), sin.clone()));
    let y = attention(q, k, v, &CausalMask::band(0, None)).reshape([2 * LEN, 6 * WIDTH]);
    let attended = linear_add(states.clone(), y, &output);
    let y = linear_add(attended.clone(), gated_linear(attended, &gate, &up), &down);
    let gradients = (y.clone() * numbers(10, y.dims(), &device)).sum().backward();
    let of = |leaf: &Tensor<2>| flat(leaf.grad(&gradients).expect("a leaf of the result"));
    [flat(y.inner()), of(&states), of(&of_keys)]
}

/// Attention of wide heads to more keys than a tile has, in sequences of different lengths, one with a window; and its gradients. The
/// type is that of products, and the numbers are those that bfloat16 has.
///
/// Scores of the last keys differ from the others by up to 11 in either direction, so that sums of earlier tiles are rescaled in a
/// third of the rows, and in others not. These keys are many: one alone would have all the weight, and the gradient of its score would
/// be the difference of two numbers that are equal but for their rounding. With the rounding of the kernels on tensor cores, or that
/// of PyTorch, results are within 0.7 % of the largest.
fn of_attention_in_bfloat16(device: &Device) -> [Vec<f32>; 4] {
    const NUM_QUERIES: usize = 33;
    const NUM_KEYS: usize = 101;
    const FIRST_OF_LAST: usize = 64;
    const WIDTH: usize = 128;
    let flex = Device::flex();
    let of_queries = [2, NUM_QUERIES, 4, WIDTH];
    let [k, v] = [1, 2].map(|salt| numbers::<4>(salt, [2, NUM_KEYS, 2, WIDTH], &flex));
    let (first, last) = (k.clone().narrow(1, 0, FIRST_OF_LAST), k.narrow(1, FIRST_OF_LAST, NUM_KEYS - FIRST_OF_LAST));
    let direction = numbers::<4>(4, [1, 1, 1, WIDTH], &flex).sign();
    let q = numbers(0, of_queries, &flex) + numbers::<4>(5, [2, NUM_QUERIES, 4, 1], &flex) * direction.clone();
    let k = Tensor::cat(vec![first, last + direction], 1);

    let device = device.clone().autodiff();
    let dtype = if keeps_bfloat16(&device) { DType::BF16 } else { DType::F32 };
    let on_device = |x: Tensor<4>| Tensor::<4>::from_data(x.cast(DType::BF16).cast(DType::F32).into_data(), &device);
    let [q, k, v] = [q, k, v].map(|x| on_device(x).require_grad());
    let mask = CausalMask::ragged(
        &[(0..NUM_QUERIES).map(|i| 0..i + 68).collect(), (0..18).map(|i| i + 40..i + 70).collect()],
        &device,
    );
    let y = attention(q.clone().cast(dtype), k.clone().cast(dtype), v.clone().cast(dtype), &mask).cast(DType::F32);
    let gradients = (y.clone() * on_device(numbers(3, of_queries, &flex))).sum().backward();
    let of = |leaf: &Tensor<4>| flat(leaf.grad(&gradients).expect("a leaf of the result"));
    [flat(y.inner()), of(&q), of(&k), of(&v)]
}

/// Products with quantized weights. Under autodiff no device rounds the activations.
fn of_quantized(device: &Device) -> Vec<f32> {
    let values = flat(numbers::<2>(1, [37, 64], &Device::flex()));
    let x = numbers::<2>(0, [3, 64], &device.clone().autodiff());
    let weights = [BlockFormat::Q8_0, BlockFormat::Q4_0]
        .map(|format| Weight::from(QuantizedWeight::quantize(format, [37, 64], &values, &x.device())));
    linear_all(x, [&weights[0], &weights[1]]).map(|y| flat(y.inner())).concat()
}

/// The values of formats with all parts: codes in two planes, scales of sub-blocks, minima.
fn of_blocks(device: &Device) -> Vec<f32> {
    let values = |(format, halves): (BlockFormat, &[usize])| {
        let mut bytes: Vec<u8> = (0..3 * format.block_bytes()).map(|i| (i * i * 31 + i / 7) as u8).collect();
        for block in bytes.chunks_exact_mut(format.block_bytes()) {
            halves.iter().for_each(|at| block[*at..at + 2].copy_from_slice(&f16::from_f32(0.01).to_le_bytes()));
        }
        let weight = QuantizedWeight::from_blocks(format, [3, 256], &bytes, device);
        [flat(weight.dequantize()), flat(weight.rows(tokens([1, 4], 3, device)))].concat()
    };
    [(BlockFormat::Q5_K, [0, 2].as_slice()), (BlockFormat::Q6_K, &[208])].map(values).concat()
}

/// The result for `num_queries` queries, and the gradients of queries, keys and values; each compared with its own largest
/// number.
fn of_attention(mask: &CausalMask, num_queries: usize, device: &Device) -> [Vec<f32>; 4] {
    let device = device.clone().autodiff();
    let [q, k, v] = [(0, [2, num_queries, 6, 8]), (1, [2, 12, 2, 8]), (2, [2, 12, 2, 8])]
        .map(|(salt, shape)| (numbers::<4>(salt, shape, &device) * 3.0).detach().require_grad());
    let y = attention(q.clone(), k.clone(), v.clone(), mask);
    let gradients = (y.clone() * numbers(3, y.dims(), &device)).sum().backward();
    let of = |leaf: &Tensor<4>| flat(leaf.grad(&gradients).expect("a leaf of the result"));
    [flat(y.inner()), of(&q), of(&k), of(&v)]
}

/// Steps of two sequences of different lengths, each of which reads what those before it wrote to the cache. Where the device
/// has graphs, all but the first, which gives the cache its type, are replayed, with other work in between. A device that
/// refuses to record them computes right numbers more slowly, so that is a warning.
fn of_captured_attention(read: fn(Tensor<2>) -> Weight, device: &Device) -> Vec<f32> {
    let weights = [(0, 6 * 8), (1, 2 * 8), (2, 2 * 8)];
    let weights = weights.map(|(salt, rows)| read(numbers(salt, [rows, 24], device)));
    let angles: [Tensor<3>; 2] = [3, 4].map(|salt| numbers(salt, [1, 1, 4], device));
    let [keys, values] = [5, 6].map(|salt| numbers(salt, [2, 12, 2, 8], device));
    let mut cache = Some(Cache { keys, values });
    let mut attend = |x: Tensor<2>, mask: &CausalMask| {
        let [q, k, v] = linear_all(x, weights.each_ref()).map(|y| y.reshape([2, 1, -1, 8]));
        let (y, written) = cached_attention([q, k, v], angles.clone(), cache.take().expect("put back"), mask);
        cache = Some(written);
        y
    };
    let states = |step: usize| numbers::<2>(7 + step, [2, 24], device);
    // The second sequence has no token in the last step.
    let ends = |step: usize| [6 + step, if step < 3 { 1 + step } else { 0 }];
    let directly = |step: usize| {
        let keys = ends(step).map(|end| (end > 0).then_some(0..end).into_iter().collect());
        (states(step), CausalMask::ragged(&keys, device))
    };

    let (x, mask) = directly(0);
    let mut results = flat(attend(x, &mask));
    let (x, bounds) = (Input::zeros([2, 24], device), Input::zeros([2, 1, 2], device));
    let mask = CausalMask::of_bounds(bounds.tensor(), 12, None);
    match Graph::capture(device, || attend(x.tensor(), &mask)) {
        Ok(mut graph) => results.extend((1..4).flat_map(|step| {
            x.write(&flat(states(step)));
            bounds.write(ends(step).map(|end| [0, end as i32]).as_flattened());
            flat(graph.replay().clone())
        })),
        Err(error) => {
            if graph::has_graphs(device) {
                eprintln!("warning: {error}; decoding passes are computed directly");
            }
            results.extend((1..4).flat_map(|step| {
                let (x, mask) = directly(step);
                flat(attend(x, &mask))
            }));
        }
    }
    results
}

/// The losses, and the gradients of the hidden states and of the head.
fn of_cross_entropy(read: fn(Tensor<2>) -> Weight, device: &Device) -> [Vec<f32>; 3] {
    let device = device.clone().autodiff();
    let [hidden, head] = [(0, [9, 24]), (1, [37, 24])].map(|(salt, shape)| numbers::<2>(salt, shape, &device));
    let [hidden, head] = [hidden, head].map(Tensor::require_grad);
    let targets = tokens([1, 9], 37, &device).reshape([9]);
    let losses = linear_cross_entropy(hidden.clone(), &read(head.clone()), targets);
    let gradients = losses.clone().mean().backward();
    let of = |leaf: &Tensor<2>| flat(leaf.grad(&gradients).expect("a leaf of the loss"));
    [flat(losses.inner()), of(&hidden), of(&head)]
}

const STEP: AdamWStep = AdamWStep {
    learning_rate: 0.1,
    beta1: 0.9,
    beta2: 0.95,
    epsilon: 1e-8,
    weight_decay: 0.1,
    step: 3,
    gradient_scale: 0.5,
};

/// The first operation whose result is not that of Flex.
pub fn first_difference(device: &Device) -> Option<Difference> {
    let in_float16 = OPERATIONS_IN_FLOAT16.into_iter().filter(|_| device.supports_dtype(DType::F16));
    let in_bfloat16 = OPERATIONS_IN_BFLOAT16.into_iter().filter(|_| device.supports_dtype(DType::BF16));
    let within = |tolerance: f32| move |operation: Operation| (operation, tolerance);
    let in_halves = in_float16.map(within(TOLERANCE_OF_FLOAT16)).chain(in_bfloat16.map(within(TOLERANCE_OF_BFLOAT16)));
    let mut operations = OPERATIONS.into_iter().map(within(TOLERANCE)).chain(in_halves);
    operations.find_map(|(operation, tolerance)| difference(operation, tolerance, device))
}

/// The element of the result that differs most from that of Flex, if it differs by more than rounding.
pub fn difference((operation, run): Operation, tolerance: f32, device: &Device) -> Option<Difference> {
    let (found, expected) = (run(device), run(&Device::flex()));
    let (index, found, expected) = most_different(&found, &expected, tolerance)?;
    Some(Difference { operation, index, found, expected })
}

/// Index and both numbers of the largest difference above the tolerance. A missing number is NaN, which differs from all.
pub fn most_different(found: &[f32], expected: &[f32], tolerance: f32) -> Option<(usize, f32, f32)> {
    let largest = expected.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let at = |numbers: &[f32], index: usize| numbers.get(index).copied().unwrap_or(f32::NAN);
    let distance = |index: usize| {
        let distance = (at(found, index) - at(expected, index)).abs();
        if distance.is_nan() { f32::INFINITY } else { distance }
    };
    let worst = (0..found.len().max(expected.len())).max_by(|a, b| distance(*a).total_cmp(&distance(*b)))?;
    (distance(worst) > tolerance * largest).then(|| (worst, at(found, worst), at(expected, worst)))
}

/// Numbers of `-1..1` without a pattern that a wrong index would meet again, others for each `salt`.
pub fn numbers<const D: usize>(salt: usize, shape: [usize; D], device: &Device) -> Tensor<D> {
    let len = shape.iter().product::<usize>();
    let values = (0..len).map(|i| ((i + 1 + 577 * salt) as f32 * 1.618_034).fract() * 2.0 - 1.0);
    Tensor::from_data(TensorData::new(values.collect::<Vec<f32>>(), shape), device)
}

/// Ids below `vocab_size`, with repetitions.
pub fn tokens(shape: [usize; 2], vocab_size: usize, device: &Device) -> Tensor<2, Int> {
    let ids = (0..shape[0] * shape[1]).map(|i| (i * i * 5 % vocab_size) as i32);
    Tensor::from_data(TensorData::new(ids.collect::<Vec<i32>>(), shape), device)
}

/// Experts of such numbers.
pub fn experts(num_experts: usize, width: usize, hidden: usize, device: &Device) -> Experts {
    let stack = |salt, shape| Param::initialized(Default::default(), numbers::<3>(salt, shape, device));
    Experts::Stacked(StackedExperts {
        gate_proj: stack(2, [num_experts, width, hidden]),
        up_proj: stack(3, [num_experts, width, hidden]),
        down_proj: stack(4, [num_experts, hidden, width]),
    })
}

/// The numbers of a tensor, row-major.
pub fn flat<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().iter::<f32>().collect()
}
