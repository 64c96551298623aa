//! Tests of products against their references.

use burn::backend::{Autodiff, Flex};
use burn::tensor::{DType, Device, Distribution, Tensor, TensorData, Tolerance, read_sync};

use super::*;
use crate::kernel::blocks::BlockFormat;
use crate::kernel::blocks::fixture::{blocks, numbers};
use crate::kernel::fixture::random;
use crate::kernel::quantized_weight::QuantizedWeight;

fn weight(shape: [usize; 2], device: &Device) -> Weight {
    random(shape, device).into()
}

fn q8_0(shape: [usize; 2], device: &Device) -> Weight {
    let values = random::<2>(shape, device).into_data().try_into_vec::<f32>().unwrap();
    QuantizedWeight::quantize(BlockFormat::Q8_0, shape, &values, device).into()
}

#[test]
fn the_kernel_gives_the_product_and_gradients_of_the_reference() {
    let device = Device::flex().autodiff();
    for (shape, out) in [([1, 1, 1], 1), ([2, 3, 17], 5), ([1, 33, 40], 70), ([3, 1, 64], 9)] {
        let x = random(shape, &device).require_grad();
        let weight = random([out, shape[2]], &device).require_grad();
        let scale = random([shape[0], shape[1], out], &device);
        let run = |f: fn(Tensor<3>, Tensor<2>) -> Tensor<3>| {
            let y = f(x.clone(), weight.clone());
            let grads = (y.clone() * scale.clone()).sum().backward();
            [y.inner().into_data(), x.grad(&grads).unwrap().into_data(), weight.grad(&grads).unwrap().into_data()]
        };
        for (found, expected) in run(linear).iter().zip(&run(linear_reference)) {
            found.assert_approx_eq::<f32>(expected, Tolerance::absolute(2e-4));
        }
    }
}

#[test]
fn a_strided_input_is_multiplied() {
    let device = Device::flex();
    let x = random::<3>([4, 6, 10], &device).swap_dims(0, 1).slice([0..6, 1..3, 0..10]);
    let weight = random([7, 10], &device);
    linear(x.clone(), weight.clone())
        .into_data()
        .assert_approx_eq::<f32>(&linear_reference(x, weight).into_data(), Tolerance::absolute(1e-5));
}

#[test]
fn half_precision_weights_are_widened_exactly() {
    let device = Device::flex();
    for dtype in [DType::BF16, DType::F16] {
        let (x, weight) = (random::<2>([20, 40], &device), random([130, 40], &device).cast(dtype));
        linear(x.clone(), weight.clone())
            .into_data()
            .assert_approx_eq::<f32>(&linear_reference(x, weight).into_data(), Tolerance::absolute(1e-5));
    }
}

#[test]
#[should_panic(expected = "linear: last axis of x [2, 3] and in_features")]
fn the_inner_axes_must_agree() {
    let device = Device::flex();
    linear(random::<2>([2, 3], &device), random([5, 4], &device));
}

#[test]
fn products_of_one_input_equal_the_references() {
    let device = Device::flex();
    let cases =
        [([1, 1, 1], [1, 3, 2]), ([0, 2, 5], [3, 0, 4]), ([1, 7, 40], [33, 17, 16]), ([3, 20, 65], [7, 64, 31])];
    for (shape, outs) in cases {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            // Exact in bfloat16, to which activations may be rounded.
            let x = random(shape, &device).cast(DType::BF16).cast(DType::F32);
            let weights = outs.map(|out| Weight::from(random([out, shape[2]], &device).cast(dtype)));
            let found = linear_all(x.clone(), weights.each_ref());
            if shape[0] == 0 {
                // Burn's reshape takes 0 for "keep this size".
                assert_eq!(found.map(|y| y.dims()), outs.map(|out| [0, shape[1], out]));
                continue;
            }
            let expected = linear_all_reference(x, weights.each_ref());
            for (found, expected) in found.into_iter().zip(expected) {
                assert_eq!(found.dims(), expected.dims());
                found.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(2e-4));
            }
        }
    }
}

#[test]
fn fused_products_have_the_bits_of_single_ones() {
    let device = Device::flex();
    for rows in [1, 3, 40, 300] {
        let x = random::<2>([rows, 64], &device);
        let weights = [weight([48, 64], &device), q8_0([20, 64], &device), weight([7, 64], &device)];
        let together = linear_all(x.clone(), weights.each_ref());
        for (weight, together) in weights.iter().zip(together) {
            let [alone] = linear_all(x.clone(), [weight]);
            assert_eq!(together.into_data(), alone.into_data(), "{rows} rows");
        }
    }
}

#[test]
fn a_residual_is_added_to_the_product() {
    let device = Device::flex();
    for (shape, out) in [([1, 1, 1], 1), ([1, 1, 40], 33), ([2, 3, 65], 7), ([1, 30, 48], 64), ([1, 300, 24], 17)] {
        let (x, weight) = (random::<3>(shape, &device), weight([out, shape[2]], &device));
        let residual = random::<3>([shape[0], shape[1], out], &device);
        let expected = linear_add_reference(residual.clone(), x.clone(), &weight).into_data();
        linear_add(residual, x, &weight).into_data().assert_approx_eq::<f32>(&expected, Tolerance::absolute(2e-4));
    }
}

#[test]
fn a_residual_that_is_shared_or_a_view_is_not_overwritten() {
    let device = Device::flex();
    let (x, weight) = (random::<2>([3, 32], &device), weight([8, 32], &device));
    let alone = random::<2>([3, 8], &device);
    let numbers = alone.clone().into_data();
    linear_add(alone.clone(), x.clone(), &weight);
    assert_eq!(alone.into_data(), numbers);
    let whole = random::<2>([5, 8], &device);
    let before = whole.clone().into_data();
    let shared = whole.clone().slice([0..3, 0..8]);
    for residual in [shared.clone(), whole.clone().slice([1..4, 0..8])] {
        let expected = linear_add_reference(residual.clone(), x.clone(), &weight).into_data();
        let sum = linear_add(residual, x.clone(), &weight).into_data();
        sum.assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-4));
    }
    assert_eq!(shared.into_data(), whole.clone().slice([0..3, 0..8]).into_data());
    assert_eq!(whole.into_data(), before);
}

#[test]
fn float_and_quantized_weights_mix_and_x_may_be_strided() {
    let device = Device::flex();
    let x = random::<3>([64, 2, 40], &device).swap_dims(0, 2).slice([3..36, 0..2, 0..64]);
    let values = random::<2>([50, 64], &device);
    let numbers = values.clone().into_data().try_into_vec::<f32>().unwrap();
    let weights = [values.into(), QuantizedWeight::quantize(BlockFormat::Q8_0, [50, 64], &numbers, &device).into()];
    for x in [x.clone(), x.slice([0..2, 0..2, 0..64])] {
        let [exact, rounded] = linear_all(x.clone(), weights.each_ref());
        let [expected] = linear_all_reference(x, [&weights[0]]);
        exact.into_data().assert_approx_eq::<f32>(&expected.clone().into_data(), Tolerance::absolute(1e-4));
        rounded.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(0.5));
    }
}

#[test]
fn gated_linear_is_silu_of_one_product_times_the_other() {
    let device = Device::flex();
    for (shape, out) in [([1, 1, 1], 1), ([1, 3, 33], 50), ([2, 40, 20], 19)] {
        let (x, gate, up) =
            (random(shape, &device), weight([out, shape[2]], &device), weight([out, shape[2]], &device));
        let expected = gated_linear_reference(x.clone(), &gate, &up).into_data();
        gated_linear(x, &gate, &up).into_data().assert_approx_eq::<f32>(&expected, Tolerance::rel_abs(1e-4, 2e-4));
    }
}

#[test]
fn gradients_reach_x_and_every_weight() {
    let device = Device::flex().autodiff();
    let leaf = |shape| random::<2>(shape, &device).require_grad();
    let (x, gate, up, down) = (leaf([5, 12]), leaf([9, 12]), leaf([9, 12]), leaf([12, 9]));
    type Gated = fn(Tensor<2>, &Weight, &Weight) -> Tensor<2>;
    type Add = fn(Tensor<2>, Tensor<2>, &Weight) -> Tensor<2>;
    let run = |gated: Gated, add: Add| {
        let hidden = gated(x.clone(), &gate.clone().into(), &up.clone().into());
        let grads = add(x.clone(), hidden, &down.clone().into()).powi_scalar(2).sum().backward();
        [&x, &gate, &up, &down].map(|leaf| leaf.grad(&grads).unwrap().into_data())
    };
    let (found, expected) = (run(gated_linear, linear_add), run(gated_linear_reference, linear_add_reference));
    for (found, expected) in found.iter().zip(&expected) {
        found.assert_approx_eq::<f32>(expected, Tolerance::rel_abs(1e-3, 1e-2));
    }
}

#[test]
fn a_frozen_weight_has_no_gradient_and_the_others_keep_theirs() {
    let device = Device::flex().autodiff();
    let (x, weight) = (random::<2>([5, 12], &device), random::<2>([9, 12], &device));
    let run = |x: Tensor<2>, weight: Tensor<2>| {
        let grads = linear(x.clone(), weight.clone()).powi_scalar(2).sum().backward();
        [x.grad(&grads).map(Tensor::into_data), weight.grad(&grads).map(Tensor::into_data)]
    };
    let [of_x, of_weight] = run(x.clone().require_grad(), weight.clone().require_grad());
    assert!(of_x.is_some() && of_weight.is_some());
    assert_eq!(run(x.clone().require_grad(), weight.clone()), [of_x, None]);
    assert_eq!(run(x, weight.require_grad()), [None, of_weight]);
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let device = Device::flex();
    let quantized = q8_0([700, 96], &device);
    for rows in [1, 5, 40, 300] {
        let (x, residual) = (random([rows, 96], &device), random::<2>([rows, 700], &device));
        let (gate, up) = (weight([700, 96], &device), weight([700, 96], &device));
        let run = || {
            let [y, of_blocks] = linear_all(x.clone(), [&gate, &quantized]);
            let hidden = gated_linear(x.clone(), &gate, &up);
            let sum = linear_add(residual.clone(), x.clone(), &quantized);
            [y, of_blocks, hidden, sum].map(Tensor::into_data)
        };
        let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run);
        let alone = on(1);
        assert_eq!(on(2), alone, "{rows} rows on two threads");
        assert_eq!(on(3), alone, "{rows} rows on three threads");
    }
}

/// Bound on the error of `x_row · w_row` if each 32 elements of `x` are rounded by up to half of `max |x| / 127`.
fn bound(x: &[f32], w: &[f32]) -> f32 {
    let step = |x: &[f32]| x.iter().fold(0.0f32, |largest, x| largest.max(x.abs())) / 127.0;
    let blocks = x.chunks_exact(32).zip(w.chunks_exact(32));
    blocks.map(|(x, w)| 0.5 * step(x) * w.iter().map(|w| w.abs()).sum::<f32>()).sum()
}

#[test]
fn quantized_products_are_within_the_rounding_of_activations() {
    let device = Device::flex();
    for format in BlockFormat::ALL {
        for (shape, out) in [([1, 1, 256], 3), ([2, 3, 512], 40), ([1, 50, 256], 17), ([1, 0, 256], 5)] {
            let bytes = blocks(format, out * shape[2], 8);
            let weight = Weight::from(QuantizedWeight::from_blocks(format, [out, shape[2]], &bytes, &device));
            let x = Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), &device);
            let [found] = linear_all(x.clone(), [&weight]);
            if shape[1] == 0 {
                assert_eq!(found.dims(), [1, 0, out]);
                continue;
            }
            let [expected] = linear_all_reference(x.clone(), [&weight]);
            assert_eq!(found.dims(), expected.dims());
            let [x, w] = [x.reshape([-1, shape[2] as i32]), weight.float()];
            let [x, w] = [x, w].map(|x| x.into_data().try_into_vec::<f32>().unwrap());
            let pairs = found.into_data().iter::<f32>().zip(expected.into_data().iter::<f32>()).collect::<Vec<_>>();
            for (i, (found, expected)) in pairs.into_iter().enumerate() {
                let row = |of: &[f32], index: usize| of[index * shape[2]..(index + 1) * shape[2]].to_vec();
                let (off, most) = ((found - expected).abs(), bound(&row(&x, i / out), &row(&w, i % out)));
                assert!(off <= 1.001 * most + 1e-4, "{format:?} {shape:?}: off by {off}, at most {most}");
            }
        }
    }
}

#[test]
fn a_quantized_weight_gives_the_product_and_the_gradient_of_its_values() {
    let device = Device::flex().autodiff();
    // More rows than a tile has, and a part of one.
    for (rows, out) in [(1, 3), (3, 256), (40, 600)] {
        let bytes = blocks(BlockFormat::Q4_K, out * 256, 1);
        let quantized = Weight::from(QuantizedWeight::from_blocks(BlockFormat::Q4_K, [out, 256], &bytes, &device));
        let values = Weight::from(quantized.float());
        let x = Tensor::<2>::random([rows, 256], Distribution::Default, &device).require_grad();
        let scale = random([rows, out], &device);
        let run = |weight: &Weight| {
            let [y] = linear_all(x.clone(), [weight]);
            let grads = (y.clone() * scale.clone()).sum().backward();
            [y.inner().into_data(), x.grad(&grads).unwrap().into_data()]
        };
        for (found, expected) in run(&quantized).iter().zip(&run(&values)) {
            found.assert_approx_eq::<f32>(expected, Tolerance::rel_abs(1e-4, 1e-3));
        }
    }
}

/// Every form of product by the trait of one backend, without dispatch.
fn forms<B: LinearOps>() -> Vec<TensorData> {
    let device = Default::default();
    let tensor = |shape: [usize; 2], salt| {
        B::float_from_data(TensorData::new(numbers(shape.iter().product(), salt), shape), &device)
    };
    let weight = |salt| Operand::<B>::Float(tensor([6, 64], salt));
    let x = tensor([5, 64], 1);
    let (first, second, third) = B::linear_three(x.clone(), weight(2), weight(3), weight(4));
    let sum = B::linear_add(tensor([5, 6], 5), x.clone(), weight(6));
    let hidden = B::gated_linear(x, weight(7), weight(8));
    let read = |y| read_sync(B::float_into_data(y)).expect("a tensor on the host");
    [first, second, third, sum, hidden].map(read).to_vec()
}

fn assert_close(found: &[TensorData], expected: &[TensorData]) {
    for (found, expected) in found.iter().zip(expected) {
        found.assert_approx_eq::<f32>(expected, Tolerance::absolute(1e-4));
    }
}

/// [`Autodiff`] writes one product, [`LinearOps::linear_float`], and inherits all fused forms; [`Flex`] writes each.
#[test]
fn a_backend_that_writes_one_product_has_every_form() {
    assert_close(&forms::<Autodiff<Flex>>(), &forms::<Flex>());
}

/// The extension traits on a backend without kernels of its own. Run by `cargo test --lib --features ndarray a_second_backend`;
/// not part of CI, since it builds Burn and the crate once more.
#[cfg(feature = "ndarray")]
#[expect(deprecated, reason = "a backend for tests alone")]
mod second_backend {
    use burn::backend::NdArray;
    use burn::backend::ops::{ActivationOps, FloatTensorOps};

    use super::*;

    impl SiluMul for NdArray {
        fn silu_mul(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
            let silu = Self::float_mul(gate.clone(), Self::sigmoid(gate));
            Self::float_mul(silu, up)
        }
    }

    impl LinearOps for NdArray {
        fn linear_float(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
            Self::float_matmul(x, Self::float_swap_dims(weight, 0, 1))
        }
    }

    #[test]
    fn a_second_backend_needs_two_bodies() {
        assert_close(&forms::<NdArray>(), &forms::<Flex>());
    }
}
