//! One `x` through several matrices in one go: queries, keys and values of attention; gate and up of an MLP; with the norm
//! before and the residual behind.
//!
//! A decoding step is a long row of small products. What two that share their `x` save together is a fork of the threads
//! and, where the weights are quantized, a rounding of `x`; a norm or a sum that is no operation of its own saves a tensor.

use std::sync::Arc;

use burn::tensor::Tensor;

use super::linear::linear;
use super::quantized_linear::{QuantizedMatrix, dequantized};
use super::rms_norm::{Norm, rms_norm_reference};
use super::silu_mul::silu_mul;

/// A weight `[out, in]`, as it is kept.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "lives for one call; a box would be one more allocation a product")]
pub enum Weight {
    /// In float32, float16 or bfloat16.
    Float(Tensor<2>),
    /// In blocks of integers.
    Quantized(Arc<QuantizedMatrix>),
}

impl Weight {
    /// `[out, in]`.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Float(weight) => weight.dims(),
            Self::Quantized(weight) => weight.dims(),
        }
    }
}

/// `x·Wᵀ` for each weight, or `norm(x)·Wᵀ`.
///
/// # Shapes
/// - `x`: `[.., in]`, float32
/// - `weights`: `[out_i, in]`
/// - results: `[.., out_i]`
///
/// # Panics
/// If the last axis of `x` is not the last of every weight, or not that of the norm.
pub fn projections<const D: usize, const N: usize>(
    x: Tensor<D>,
    norm: Option<Norm>,
    weights: [Weight; N],
) -> [Tensor<D>; N] {
    let shape = x.dims();
    for weight in &weights {
        assert_eq!(shape[D - 1], weight.dims()[1], "linear: last axis of x {shape:?} and in_features");
    }
    let x = normalized(x, norm);
    #[cfg(feature = "flex")]
    if flex::takes(&x) {
        return flex::projections(x, weights);
    }
    weights.map(|weight| single(x.clone(), weight))
}

/// The same, one matrix after the other by Burn's own product.
///
/// # Panics
/// As [`projections`].
pub fn projections_reference<const D: usize, const N: usize>(
    x: Tensor<D>,
    norm: Option<Norm>,
    weights: [Weight; N],
) -> [Tensor<D>; N] {
    use super::{linear::linear_reference, quantized_linear::quantized_linear_reference};
    let x = match norm {
        Some(Norm { weight, epsilon }) => rms_norm_reference(x, weight, epsilon),
        None => x,
    };
    weights.map(|weight| match weight {
        Weight::Float(weight) => linear_reference(x.clone(), weight),
        Weight::Quantized(weight) => quantized_linear_reference(x.clone(), &weight),
    })
}

/// `residual + x·Wᵀ`.
///
/// # Shapes
/// - `residual`, result: `[.., out]`
/// - `x`: `[.., in]`, float32
/// - `weight`: `[out, in]`
///
/// # Panics
/// If the last axis of `x` is not `in`, or the residual has not the shape of the product.
pub fn linear_add<const D: usize>(residual: Tensor<D>, x: Tensor<D>, weight: Weight) -> Tensor<D> {
    let (shape, [out_features, in_features]) = (x.dims(), weight.dims());
    assert_eq!(shape[D - 1], in_features, "linear: last axis of x {shape:?} and in_features");
    let mut product = shape;
    product[D - 1] = out_features;
    assert_eq!(residual.dims(), product, "linear_add: residual and product");
    #[cfg(feature = "flex")]
    if flex::takes(&x) {
        return flex::linear_add(residual, x, weight);
    }
    residual + single(x, weight)
}

/// The same by Burn's own operations.
///
/// # Panics
/// As [`linear_add`].
pub fn linear_add_reference<const D: usize>(residual: Tensor<D>, x: Tensor<D>, weight: Weight) -> Tensor<D> {
    let [product] = projections_reference(x, None, [weight]);
    residual + product
}

/// `silu(x·gateᵀ) ∘ (x·upᵀ)`, the hidden state of a gated MLP (Shazeer, 2020, arXiv:2002.05202, §2); of `norm(x)` if there
/// is a norm.
///
/// # Shapes
/// - `x`: `[.., in]`, float32
/// - `gate`, `up`: `[out, in]`
/// - result: `[.., out]`
///
/// # Panics
/// If the last axis of `x` is not the last of both weights and of the norm, or they have not the same shape.
pub fn gated_projection<const D: usize>(x: Tensor<D>, norm: Option<Norm>, gate: Weight, up: Weight) -> Tensor<D> {
    assert_eq!(gate.dims(), up.dims(), "gated_projection: gate and up");
    assert_eq!(x.dims()[D - 1], gate.dims()[1], "gated_projection: last axis of x and in_features");
    let x = normalized(x, norm);
    #[cfg(feature = "flex")]
    if flex::takes(&x) {
        return flex::gated_projection(x, gate, up);
    }
    silu_mul(single(x.clone(), gate), single(x, up))
}

/// The same by Burn's own operations.
///
/// # Panics
/// As [`gated_projection`].
pub fn gated_projection_reference<const D: usize>(
    x: Tensor<D>,
    norm: Option<Norm>,
    gate: Weight,
    up: Weight,
) -> Tensor<D> {
    let [gate, up] = projections_reference(x, norm, [gate, up]);
    super::silu_mul::silu_mul_reference(gate, up)
}

fn normalized<const D: usize>(x: Tensor<D>, norm: Option<Norm>) -> Tensor<D> {
    match norm {
        Some(norm) => norm.of(x),
        None => x,
    }
}

/// One product, with the gradients that there are.
fn single<const D: usize>(x: Tensor<D>, weight: Weight) -> Tensor<D> {
    match weight {
        Weight::Float(weight) => linear(x, weight),
        Weight::Quantized(weight) => {
            let weight = dequantized(&weight, &x.device());
            linear(x, weight)
        }
    }
}

#[cfg(feature = "flex")]
pub(super) mod flex {
    use burn::backend::flex::FlexTensor;
    use burn::backend::{Flex, TensorMetadata};
    use burn::tensor::Tensor;

    use super::Weight;
    use crate::kernel::cpu::{self, Matrix, Threads, WeightRows, dense, tensor, values, whole};
    use crate::kernel::flop_counter;

    /// Whether the hand-written bodies take this: they have no gradients.
    pub fn takes<const D: usize>(x: &Tensor<D>) -> bool {
        let device = x.device();
        crate::kernel::has_kernel(&device) && !device.is_autodiff()
    }

    /// A weight whose elements can be borrowed.
    pub enum Held {
        Float(FlexTensor),
        Quantized(std::sync::Arc<crate::kernel::quantized_linear::QuantizedMatrix>),
    }

    impl Held {
        pub fn new(weight: Weight) -> Self {
            match weight {
                Weight::Float(weight) => Self::Float(primitive(weight).to_contiguous()),
                Weight::Quantized(weight) => Self::Quantized(weight),
            }
        }

        pub fn matrix(&self) -> Matrix<'_> {
            match self {
                Self::Float(weight) => Matrix::Rows(WeightRows::of(weight)),
                Self::Quantized(weight) => Matrix::Quantized(weight),
            }
        }
    }

    pub fn primitive<const D: usize>(x: Tensor<D>) -> FlexTensor {
        x.try_into_primitive::<Flex>().expect("on the device of x, and like x without gradients")
    }

    pub fn projections<const D: usize, const N: usize>(x: Tensor<D>, weights: [Weight; N]) -> [Tensor<D>; N] {
        let x = dense(primitive(x));
        let (shape, k) = (x.shape(), weights.first().map_or(1, |weight| weight.dims()[1]));
        let rows = (0..D - 1).map(|axis| shape[axis]).product::<usize>();
        let widths = weights.each_ref().map(|weight| weight.dims()[0]);
        flop_counter::add(rows * k * widths.iter().sum::<usize>());
        let held = weights.map(Held::new);
        let mut outs = widths.map(|width| vec![0.0; rows * width]);
        let products = held.iter().zip(&mut outs).map(|(held, out)| (held.matrix(), out.as_mut_slice())).collect();
        if k > 0 {
            cpu::products(values(&x), k, products, false, Threads::Pool);
        }
        let mut widths = widths.into_iter();
        outs.map(|out| {
            let mut shape = shape.clone();
            shape[D - 1] = widths.next().expect("as many widths as results");
            Tensor::from_primitive::<Flex>(tensor(out, shape))
        })
    }

    pub fn linear_add<const D: usize>(residual: Tensor<D>, x: Tensor<D>, weight: Weight) -> Tensor<D> {
        let (mut out, x, k) = (whole(primitive(residual)), dense(primitive(x)), weight.dims()[1]);
        let held = Held::new(weight);
        // In place if nobody else has the residual.
        let sums = out.storage_mut::<f32>();
        flop_counter::add(sums.len() * k);
        if k > 0 {
            cpu::products(values(&x), k, vec![(held.matrix(), sums)], true, Threads::Pool);
        }
        Tensor::from_primitive::<Flex>(out)
    }

    pub fn gated_projection<const D: usize>(x: Tensor<D>, gate: Weight, up: Weight) -> Tensor<D> {
        let x = dense(primitive(x));
        let ([n, k], mut shape) = (gate.dims(), x.shape());
        let rows = (0..D - 1).map(|axis| shape[axis]).product::<usize>();
        flop_counter::add(2 * rows * k * n);
        let (gate, up) = (Held::new(gate), Held::new(up));
        let mut out = vec![0.0; rows * n];
        if k > 0 {
            cpu::gated(values(&x), k, [gate.matrix(), up.matrix()], &mut out, Threads::Pool);
        }
        shape[D - 1] = n;
        Tensor::from_primitive::<Flex>(tensor(out, shape))
    }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::tensor::{DType, Device, Tolerance};

    use super::*;
    use crate::kernel::fixture::random;
    use crate::kernel::quantized_linear::BlockFormat;

    fn norm(width: usize, device: &Device) -> Norm {
        Norm { weight: random([width], device), epsilon: 1e-5 }
    }

    #[test]
    fn several_matrices_at_once_give_the_products_of_the_reference() {
        let device = Device::flex();
        let cases =
            [([1, 1, 1], [1, 3, 2]), ([0, 2, 5], [3, 0, 4]), ([1, 7, 40], [33, 17, 16]), ([3, 20, 65], [7, 64, 31])];
        for (shape, outs) in cases {
            for dtype in [DType::F32, DType::BF16, DType::F16] {
                let x = random(shape, &device);
                let weights = outs.map(|out| Weight::Float(random([out, shape[2]], &device).cast(dtype)));
                if shape[0] == 0 {
                    // Burn's own reshape takes 0 to mean the size that was there.
                    assert_eq!(projections(x, None, weights).map(|y| y.dims()), outs.map(|out| [0, shape[1], out]));
                    continue;
                }
                let expected = projections_reference(x.clone(), None, weights.clone());
                for (found, expected) in projections(x, None, weights).into_iter().zip(expected) {
                    assert_eq!(found.dims(), expected.dims());
                    found.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(2e-4));
                }
            }
        }
    }

    #[test]
    fn a_norm_before_and_a_residual_behind_are_those_of_their_own_operations() {
        let device = Device::flex();
        for (shape, out) in [
            ([1, 1, 1], 1),
            ([1, 1, 40], 33),
            ([2, 3, 65], 7),
            ([1, 30, 48], 64),
            ([2, 50, 33], 20),
            ([1, 300, 24], 17),
        ] {
            let (x, norm) = (random::<3>(shape, &device), norm(shape[2], &device));
            let weights = [out, 2 * out].map(|out| Weight::Float(random([out, shape[2]], &device)));
            let found = projections(x.clone(), Some(norm.clone()), weights.clone());
            let expected = projections(norm.clone().of(x.clone()), None, weights.clone());
            for (found, expected) in found.into_iter().zip(expected) {
                assert_eq!(found.into_data(), expected.into_data(), "norm of {shape:?}");
            }
            let [weight, _] = weights;
            let hidden = gated_projection(x.clone(), Some(norm.clone()), weight.clone(), weight.clone());
            let expected = gated_projection(norm.of(x.clone()), None, weight.clone(), weight.clone());
            assert_eq!(hidden.into_data(), expected.into_data(), "gate of {shape:?}");

            let residual = random::<3>([shape[0], shape[1], out], &device);
            let expected = linear_add_reference(residual.clone(), x.clone(), weight.clone()).into_data();
            let sum = linear_add(residual, x, weight).into_data();
            sum.assert_approx_eq::<f32>(&expected, Tolerance::absolute(2e-4));
        }
    }

    #[test]
    fn a_residual_that_others_have_or_that_is_a_part_keeps_its_numbers() {
        let device = Device::flex();
        let (x, weight) = (random::<2>([3, 32], &device), Weight::Float(random([8, 32], &device)));
        let alone = random::<2>([3, 8], &device);
        let numbers = alone.clone().into_data();
        linear_add(alone.clone(), x.clone(), weight.clone());
        assert_eq!(alone.into_data(), numbers);
        let whole = random::<2>([5, 8], &device);
        let before = whole.clone().into_data();
        let shared = whole.clone().slice([0..3, 0..8]);
        for residual in [shared.clone(), whole.clone().slice([1..4, 0..8])] {
            let expected = linear_add_reference(residual.clone(), x.clone(), weight.clone()).into_data();
            let sum = linear_add(residual, x.clone(), weight.clone()).into_data();
            sum.assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-4));
        }
        assert_eq!(shared.into_data(), whole.clone().slice([0..3, 0..8]).into_data());
        assert_eq!(whole.into_data(), before);
    }

    #[test]
    fn floats_and_blocks_may_stand_side_by_side_and_x_may_be_strided() {
        let device = Device::flex();
        let x = random::<3>([64, 2, 40], &device).swap_dims(0, 2).slice([3..36, 0..2, 0..64]);
        let values = random::<2>([50, 64], &device);
        let blocks = values.clone().into_data().try_into_vec::<f32>().unwrap();
        let blocks = Weight::Quantized(Arc::new(QuantizedMatrix::quantize(BlockFormat::Q8_0, [50, 64], &blocks)));
        for x in [x.clone(), x.slice([0..2, 0..2, 0..64])] {
            let [exact, rounded] = projections(x.clone(), None, [Weight::Float(values.clone()), blocks.clone()]);
            let [expected, _] = projections_reference(x, None, [Weight::Float(values.clone()), blocks.clone()]);
            exact.into_data().assert_approx_eq::<f32>(&expected.clone().into_data(), Tolerance::absolute(1e-4));
            rounded.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(0.5));
        }
    }

    #[test]
    fn a_gated_projection_is_silu_of_one_product_times_the_other() {
        let device = Device::flex();
        for (shape, out) in [([1, 1, 1], 1), ([1, 3, 33], 50), ([2, 40, 20], 19)] {
            let weight = || Weight::Float(random([out, shape[2]], &device));
            let (x, gate, up) = (random(shape, &device), weight(), weight());
            let norm = Some(norm(shape[2], &device));
            let expected = gated_projection_reference(x.clone(), norm.clone(), gate.clone(), up.clone()).into_data();
            gated_projection(x, norm, gate, up)
                .into_data()
                .assert_approx_eq::<f32>(&expected, Tolerance::rel_abs(1e-4, 2e-4));
        }
    }

    #[test]
    fn gradients_reach_x_and_every_weight() {
        let device = Device::flex().autodiff();
        let leaf = |shape| random::<2>(shape, &device).require_grad();
        let (x, gate, up, down) = (leaf([5, 12]), leaf([9, 12]), leaf([9, 12]), leaf([12, 9]));
        let gain = random::<1>([12], &device).require_grad();
        type Gated = fn(Tensor<2>, Option<Norm>, Weight, Weight) -> Tensor<2>;
        type Onto = fn(Tensor<2>, Tensor<2>, Weight) -> Tensor<2>;
        let run = |gated: Gated, onto: Onto| {
            let norm = Some(Norm { weight: gain.clone(), epsilon: 1e-5 });
            let hidden = gated(x.clone(), norm, Weight::Float(gate.clone()), Weight::Float(up.clone()));
            let grads = onto(x.clone(), hidden, Weight::Float(down.clone())).powi_scalar(2).sum().backward();
            let of_gain = gain.grad(&grads).unwrap().into_data();
            ([&x, &gate, &up, &down].map(|leaf| leaf.grad(&grads).unwrap().into_data()), of_gain)
        };
        let (found, of_gain) = run(gated_projection, linear_add);
        let (expected, expected_of_gain) = run(gated_projection_reference, linear_add_reference);
        of_gain.assert_approx_eq::<f32>(&expected_of_gain, Tolerance::rel_abs(1e-3, 1e-2));
        for (found, expected) in found.iter().zip(&expected) {
            found.assert_approx_eq::<f32>(expected, Tolerance::rel_abs(1e-3, 1e-2));
        }
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        let device = Device::flex();
        let blocks = random::<2>([700, 96], &device).into_data().try_into_vec::<f32>().unwrap();
        let blocks = Weight::Quantized(Arc::new(QuantizedMatrix::quantize(BlockFormat::Q8_0, [700, 96], &blocks)));
        for rows in [1, 5, 40, 300] {
            let (x, gate, up) = (random([rows, 96], &device), random([700, 96], &device), random([700, 96], &device));
            let (residual, norm) = (random::<2>([rows, 700], &device), norm(96, &device));
            let run = || {
                let weights = [Weight::Float(gate.clone()), blocks.clone()];
                let [y, of_blocks] = projections(x.clone(), Some(norm.clone()), weights);
                let hidden = gated_projection(x.clone(), None, Weight::Float(gate.clone()), Weight::Float(up.clone()));
                let sum = linear_add(residual.clone(), x.clone(), blocks.clone());
                [y, of_blocks, hidden, sum].map(Tensor::into_data)
            };
            let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run);
            let alone = on(1);
            assert_eq!(on(2), alone, "{rows} rows on two threads");
            assert_eq!(on(3), alone, "{rows} rows on three threads");
        }
    }
}
