//! Root-mean-square normalization of the last axis.

#[cfg(feature = "flex")]
mod autodiff;
#[cfg(feature = "flex")]
mod cpu;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "tch")]
mod torch;

#[cfg(feature = "flex")]
use burn::backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::tensor::{DType, Device, Tensor};

use crate::trace::Op;

/// Whether this device has a kernel.
pub fn has_kernel(device: &Device) -> bool {
    super::is_flex(device) || super::is_libtorch(device) || super::is_cube(device)
}

/// `y = x / √(mean(x²) + ε) ∘ weight` (Zhang & Sennrich, 2019, arXiv:1910.07467, §4).
///
/// # Shapes
/// - `x`, result: `[.., hidden_size]`, float32
/// - `weight`: `[hidden_size]`
///
/// # Panics
/// If the last axis of `x` is not that of `weight`.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    assert_eq!(x.dims()[D - 1], weight.dims()[0], "rms_norm: last axis of x and weight");
    let weight = weight.cast(DType::F32);
    let [width] = weight.dims();
    crate::trace::count(Op { multiply_adds: 0, bytes: width * size_of::<f32>(), parameters: width });
    #[cfg(feature = "flex")]
    if has_kernel(&x.device()) {
        return Tensor::from_dispatch(<Dispatch as RmsNorm>::rms_norm(
            x.into_dispatch(),
            weight.into_dispatch(),
            epsilon as f32,
        ));
    }
    rms_norm_reference(x, weight, epsilon)
}

/// [`rms_norm`] by Burn's operations.
pub fn rms_norm_reference<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let scale = (x.clone().square().mean_dim(D - 1) + epsilon).sqrt().recip();
    x * scale * weight.unsqueeze()
}

/// The operation of a backend.
#[cfg(feature = "flex")]
#[backend_extension(Flex, LibTorch: cfg(feature = "tch"), Cube: cfg(feature = "cube"), Autodiff)]
pub(super) trait RmsNorm: Backend {
    /// The normalized rows.
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self>;
}

/// The gradient of a backend, for [`Autodiff`](burn::backend::Autodiff).
#[cfg(feature = "flex")]
pub(super) trait RmsNormBackward: RmsNorm {
    /// With `r = 1/√(mean(x²)+ε)` and `g = dy ∘ weight`: `dx = r·(g − x·r²·mean(g∘x))`, and `dweight = Σ dy∘x·r` if it is
    /// asked for.
    fn rms_norm_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f32,
        of_weight: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>);
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::tensor::{Device, Distribution, Tolerance};

    use super::*;

    #[test]
    fn the_kernel_gives_the_values_and_gradients_of_the_reference() {
        let device = Device::flex().autodiff();
        for (rows, width) in [(1, 1), (3, 17), (500, 96)] {
            let random = |shape| Tensor::<2>::random(shape, Distribution::Normal(0.5, 2.0), &device);
            let x = random([rows, width]).require_grad();
            let weight = random([1, width]).reshape([width]).detach().require_grad();
            let scale = random([rows, width]);
            let run = |f: fn(Tensor<2>, Tensor<1>, f64) -> Tensor<2>| {
                let y = f(x.clone(), weight.clone(), 1e-5);
                let grads = (y.clone() * scale.clone()).sum().backward();
                [y.inner().into_data(), x.grad(&grads).unwrap().into_data(), weight.grad(&grads).unwrap().into_data()]
            };
            for (found, expected) in run(rms_norm).iter().zip(&run(rms_norm_reference)) {
                found.assert_approx_eq::<f32>(expected, Tolerance::rel_abs(1e-4, 1e-4));
            }
        }
    }

    #[test]
    fn a_frozen_gain_has_no_gradient_and_x_keeps_its() {
        let device = Device::flex().autodiff();
        let x = Tensor::<2>::random([40, 17], Distribution::Normal(0.5, 2.0), &device).require_grad();
        let weight = Tensor::<2>::random([1, 17], Distribution::Normal(0.5, 2.0), &device).reshape([17]).detach();
        let run = |weight: Tensor<1>| {
            let grads = rms_norm(x.clone(), weight.clone(), 1e-5).powi_scalar(2).sum().backward();
            (x.grad(&grads).unwrap().into_data(), weight.grad(&grads).is_some())
        };
        let (expected, _) = run(weight.clone().require_grad());
        assert_eq!(run(weight), (expected, false));
    }

    #[test]
    fn a_row_of_unit_weight_has_mean_square_one() {
        let device = Device::flex();
        let x = Tensor::<2>::random([5, 64], Distribution::Normal(3.0, 9.0), &device);
        let y = rms_norm(x, Tensor::ones([64], &device), 1e-12);
        y.square()
            .mean_dim(1)
            .into_data()
            .assert_approx_eq::<f32>(&Tensor::<2>::ones([5, 1], &device).into_data(), Tolerance::absolute(1e-5));
    }
}
