//! Kernels in CubeCL against the references on Flex, at small and odd sizes, gradients included, on every device of CubeCL that
//! is present, refused at its opening or not.

use burn::module::Module;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::device::check::{TOLERANCE_OF_FLOAT16, flat, most_different, numbers};
use crate::kernel::adamw::{AdamWState, AdamWStep, adamw, adamw_reference, sum_of_squares};
use crate::kernel::blocks::BlockFormat;
use crate::kernel::blocks::fixture::blocks;
use crate::kernel::embedding::{embedding, embedding_reference};
use crate::kernel::linear::{Weight, linear, linear_all, linear_reference};
use crate::kernel::linear_cross_entropy::{linear_cross_entropy, linear_cross_entropy_reference};
use crate::kernel::quantized_weight::QuantizedWeight;
use crate::kernel::rms_norm::{rms_norm, rms_norm_reference};
use crate::kernel::rope::{rope, rope_reference};
use crate::kernel::silu_mul::{silu_mul, silu_mul_reference};
use crate::kernel::top_k_softmax::{top_k_softmax, top_k_softmax_reference};

/// Largest difference, in units of the largest number of a result: a sum in another order.
const TOLERANCE: f32 = 1e-5;

/// The devices of CubeCL that are present, by name.
pub fn devices() -> impl Iterator<Item = (String, Device)> {
    super::present().into_iter().filter(|(name, _)| ["cuda", "vulkan", "wgpu"].contains(&name.as_str()))
}

/// The result of `f`, and the gradients of `Σ y ∘ scale` with respect to its arguments.
pub fn results<const N: usize, const D: usize, const R: usize>(
    shapes: [[usize; D]; N],
    f: impl FnOnce([Tensor<D>; N]) -> Tensor<R>,
    device: &Device,
) -> Vec<Vec<f32>> {
    let device = device.clone().autodiff();
    let leaves: [Tensor<D>; N] = std::array::from_fn(|salt| numbers(salt, shapes[salt], &device).require_grad());
    let y = f(leaves.clone());
    let grads = (y.clone() * numbers(9, y.dims(), &device)).sum().backward();
    let of_leaf = |leaf: &Tensor<D>| flat(leaf.grad(&grads).expect("y depends on it"));
    std::iter::once(flat(y.inner())).chain(leaves.iter().map(of_leaf)).collect()
}

/// Asserts that the kernel gives on each device the results that the reference gives on Flex.
pub fn assert_equal(
    case: &str,
    kernel: impl Fn(&Device) -> Vec<Vec<f32>>,
    reference: impl Fn(&Device) -> Vec<Vec<f32>>,
) {
    assert_within(TOLERANCE, case, kernel, reference);
}

fn assert_within(
    tolerance: f32,
    case: &str,
    kernel: impl Fn(&Device) -> Vec<Vec<f32>>,
    reference: impl Fn(&Device) -> Vec<Vec<f32>>,
) {
    for (name, device) in devices() {
        let (found, expected) = (kernel(&device), reference(&Device::flex()));
        assert_eq!(found.len(), expected.len());
        for (part, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found.len(), expected.len(), "{case} on {name}, part {part}");
            let largest = expected.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
            for (index, (a, b)) in found.iter().zip(expected).enumerate() {
                let is_equal = (a - b).abs() <= tolerance * largest;
                assert!(is_equal, "{case} on {name}, part {part}, element {index}: found {a}, expected {b}");
            }
        }
    }
}

#[test]
fn rms_norm_is_that_of_the_reference() {
    for [rows, width] in [[1, 3], [3, 17], [70, 96], [130, 576], [2, 1030]] {
        let run = |f: fn(Tensor<2>, Tensor<1>, f64) -> Tensor<2>, device: &Device| {
            results([[rows, width], [1, width]], |[x, weight]| f(x, weight.reshape([width]), 1e-5), device)
        };
        let case = format!("rms_norm of [{rows}, {width}]");
        assert_equal(&case, |device| run(rms_norm, device), |device| run(rms_norm_reference, device));
    }
}

#[test]
fn silu_mul_is_that_of_the_reference() {
    for shape in [[1, 1], [3, 17], [40, 100]] {
        let run = |f: fn(Tensor<2>, Tensor<2>) -> Tensor<2>, device: &Device| {
            results([shape; 2], |[gate, up]| f(gate * 6.0, up), device)
        };
        assert_equal("silu_mul", |device| run(silu_mul, device), |device| run(silu_mul_reference, device));
    }
}

#[test]
fn rope_is_that_of_the_reference() {
    for (shape, rows) in [([1, 1, 1, 2], 1), ([2, 5, 3, 6], 1), ([3, 40, 2, 24], 3)] {
        let run = |f: fn(Tensor<4>, Tensor<3>, Tensor<3>) -> Tensor<4>, device: &Device| {
            let [cos, sin] = [1, 2].map(|salt| numbers(salt, [rows, shape[1], shape[3] / 2], device));
            results([shape], |[x]| f(x, cos, sin), device)
        };
        assert_equal("rope", |device| run(rope, device), |device| run(rope_reference, device));
    }
}

#[test]
fn embedding_is_that_of_the_reference() {
    // Vocabulary, width, rows of tokens, tokens of a row: fewer and more tokens than a cube has units, many and few ids.
    for [vocab, width, rows, len] in
        [[1, 1, 1, 1], [7, 5, 2, 3], [300, 33, 1, 127], [130, 64, 1, 128], [5, 3, 3, 43], [1000, 10, 3, 129]]
    {
        let run = |f: fn(Tensor<2>, Tensor<2, Int>) -> Tensor<3>, device: &Device| {
            // The first id, the last, and others, most of them more than once.
            let ids = (0..rows * len).map(|i| [0, vocab - 1, i * i * 7 % vocab, vocab / 2, i % vocab][i % 5] as i64);
            let ids = TensorData::new(ids.collect::<Vec<_>>(), [rows, len]);
            results([[vocab, width]], |[table]| f(table, Tensor::from_data(ids, device)), device)
        };
        let case = format!("embedding of {rows} × {len} tokens, {vocab} of {width}");
        assert_equal(&case, |device| run(embedding, device), |device| run(embedding_reference, device));
    }
    // All tokens have one id, and the other rows get zero.
    let one_id = |f: fn(Tensor<2>, Tensor<2, Int>) -> Tensor<3>, device: &Device| {
        results([[9, 4]], |[table]| f(table, Tensor::full([2, 150], 4, device)), device)
    };
    assert_equal("one id", |device| one_id(embedding, device), |device| one_id(embedding_reference, device));
}

#[test]
fn linear_is_that_of_the_reference() {
    for [rows, inner, columns] in [[1, 3, 5], [7, 65, 130], [1, 64, 40]] {
        let run = |f: fn(Tensor<3>, Tensor<2>) -> Tensor<3>, device: &Device| {
            let of_rows = |[x, weight]: [Tensor<2>; 2]| f(x.reshape([rows, 1, inner]), weight);
            results([[rows, inner], [columns, inner]], of_rows, device)
        };
        assert_equal("linear", |device| run(linear, device), |device| run(linear_reference, device));
    }
}

/// The devices of CubeCL that have float16.
fn devices_with_float16() -> impl Iterator<Item = (String, Device)> {
    devices().filter(|(name, device)| {
        let has_float16 = device.supports_dtype(DType::F16);
        eprintln!("{name} {} float16", if has_float16 { "has" } else { "lacks" });
        has_float16
    })
}

/// Results exceed the largest float16.
#[test]
fn products_of_float16_round_nothing_but_activations() {
    let sizes = [[1, 24, 37], [1, 512, 96], [1, 64, 1], [33, 24, 37], [5, 1, 3], [70, 320, 130], [512, 520, 512]];
    for (name, device) in devices_with_float16() {
        for [rows, inner, columns] in sizes {
            let factors = |device: &Device| {
                [(0, rows), (1, columns)].map(|(salt, rows)| numbers::<2>(salt, [rows, inner], device) * 600.0)
            };
            let [x, weight] = factors(&device);
            let found = flat(linear(x, weight.cast(DType::F16)));
            let [x, weight] = factors(&Device::flex()).map(|x| x.cast(DType::F16));
            let expected = flat(linear_reference(x.cast(DType::F32), weight));
            let different = most_different(&found, &expected, TOLERANCE);
            assert_eq!(different, None, "{rows} rows, {inner} to {columns}, on {name}");
        }
    }
}

#[test]
fn a_factor_beyond_float16_gives_no_finite_result() {
    for (name, device) in devices_with_float16() {
        let x = Tensor::<2>::from_data([[1.0, 7e4], [1.0, -7e4], [1.0, 6e4]], &device);
        let y = flat(linear(x, Tensor::<2>::ones([1, 2], &device).cast(DType::F16)));
        assert_eq!(y.iter().map(|y| y.is_finite()).collect::<Vec<_>>(), [false, false, true], "{y:?} on {name}");
    }
}

/// In float16, these would be zero.
#[test]
fn gradients_beside_float16_weights_do_not_underflow() {
    let run = |device: &Device| {
        let of_half = |[x, weight]: [Tensor<2>; 2]| linear(x, weight.cast(DType::F16)) * 1e-9;
        results([[7, 24], [37, 24]], of_half, device)
    };
    for (name, device) in devices_with_float16() {
        for (found, expected) in run(&device).iter().zip(&run(&Device::flex())) {
            assert_eq!(most_different(found, expected, TOLERANCE_OF_FLOAT16), None, "on {name}");
        }
    }
}

#[test]
fn products_of_blocks_are_those_of_the_reference() {
    // Rows of activations, out, in: part of a tile, several tiles, the most rows that read blocks, and more. In is at least a block.
    let sizes: [[usize; 3]; 9] = [
        [1, 5, 256],
        [1, 40, 768],
        [3, 33, 512],
        [13, 18, 256],
        [40, 7, 256],
        [2, 19, 32],
        [5, 17, 288],
        [32, 3, 96],
        [33, 3, 96],
    ];
    for (format, [rows, columns, inner]) in
        BlockFormat::ALL.into_iter().flat_map(|format| sizes.map(|sizes| (format, sizes)))
    {
        let inner = inner.next_multiple_of(format.block_len());
        let bytes = blocks(format, columns * inner, 4);
        let run = |f: fn(Tensor<2>, QuantizedWeight) -> Tensor<2>, device: &Device| {
            let of_rows = |[x]: [Tensor<2>; 1]| {
                let weight = QuantizedWeight::from_blocks(format, [columns, inner], &bytes, &x.device());
                f(x, weight)
            };
            results([[rows, inner]], of_rows, device)
        };
        let case = format!("{rows} rows of {inner} by {columns} rows of {format:?}");
        let product = |x, weight: QuantizedWeight| linear_all(x, [&weight.into()]).into_iter().next().expect("one");
        let reference = |x, weight: QuantizedWeight| linear_reference(x, weight.dequantize());
        assert_equal(&case, |device| run(product, device), |device| run(reference, device));
    }
}

#[test]
fn rows_of_blocks_are_those_of_flex() {
    for format in BlockFormat::ALL {
        let bytes = blocks(format, 7 * 512, 5);
        let rows = |device: &Device| {
            let weight = QuantizedWeight::from_blocks(format, [7, 512], &bytes, device);
            let tokens = Tensor::<2, Int>::from_data([[3, 0, 6], [6, 2, 3]], device);
            let copy = weight.clone().to_device(device);
            vec![flat(weight.rows(tokens)), copy.values(), weight.values()]
        };
        assert_equal(&format!("rows of {format:?}"), rows, rows);
    }
}

type Losses = fn(Tensor<2>, &Weight, Tensor<1, Int>) -> Tensor<1>;

#[test]
fn losses_are_those_of_the_reference() {
    // The last has two chunks of tokens, and sums of 131,080 terms.
    for ([tokens, hidden, vocab], tolerance) in
        [([1, 1, 1], TOLERANCE), ([3, 17, 5], TOLERANCE), ([35, 24, 513], TOLERANCE), ([260, 1, 131_080], 1e-3)]
    {
        for is_mean in [false, true] {
            let run = |f: Losses, device: &Device| {
                let of_batch = |[x, weight]: [Tensor<2>; 2]| {
                    let targets = Tensor::<1, Int>::arange(0..tokens as i64, &x.device()).mul_scalar(7);
                    let losses = f(x, &weight.into(), targets.remainder_scalar(vocab as i64));
                    if is_mean { losses.mean() } else { losses }
                };
                results([[tokens, hidden], [vocab, hidden]], of_batch, device)
            };
            let case = format!("losses of {tokens} tokens, {hidden} to {vocab}, mean: {is_mean}");
            assert_within(
                tolerance,
                &case,
                |device| run(linear_cross_entropy, device),
                |device| run(linear_cross_entropy_reference, device),
            );
        }
    }
}

#[test]
fn updates_are_those_of_the_reference() {
    type Update = fn(AdamWState<2>, Tensor<2>, AdamWStep) -> AdamWState<2>;
    for shape in [[1, 1], [33, 7], [300, 129]] {
        let run = |f: Update, device: &Device| {
            let [param, moment1, root] = [0, 1, 2].map(|salt| numbers::<2>(salt, shape, device));
            let mut state = AdamWState { param: param.clone(), moment1, moment2: root.square() };
            for step in 3..6 {
                let step = AdamWStep {
                    learning_rate: 0.1,
                    beta1: 0.9,
                    beta2: 0.999,
                    epsilon: 1e-8,
                    weight_decay: 0.1,
                    step,
                    gradient_scale: 0.5,
                };
                state = f(state, numbers(step.step as usize, shape, device), step);
            }
            // The parameter that somebody else has is as it was.
            [state.param, state.moment1, state.moment2, param].map(flat).to_vec()
        };
        assert_equal("adamw", |device| run(adamw, device), |device| run(adamw_reference, device));
    }
    let squares = |device: &Device| vec![vec![sum_of_squares(numbers::<2>(0, [700, 301], device)) as f32]];
    assert_equal("sum_of_squares", squares, squares);
}

type TopK = fn(Tensor<2>, usize) -> (Tensor<2>, Tensor<2, Int>);

#[test]
fn choices_of_experts_are_those_of_the_reference() {
    for [num_tokens, num_experts, k] in [[1, 1, 1], [3, 8, 2], [130, 5, 5], [7, 64, 8]] {
        let run = |f: TopK, device: &Device| {
            let mut found = results([[num_tokens, num_experts]], |[scores]| f(scores, k).0, device);
            found.push(flat(f(numbers(0, [num_tokens, num_experts], device), k).1.float()));
            found
        };
        let case = format!("{k} of {num_experts} experts for each of {num_tokens} tokens");
        assert_equal(&case, |device| run(top_k_softmax, device), |device| run(top_k_softmax_reference, device));
    }
    // Equal scores and NaN.
    let choices = |device: &Device| {
        let scores = Tensor::from_data([[1.0, 2.0, 2.0, 2.0], [0.0, f32::NAN, f32::INFINITY, f32::NAN]], device);
        vec![flat(top_k_softmax(scores, 3).1.float())]
    };
    assert_equal("choices", choices, choices);
}
