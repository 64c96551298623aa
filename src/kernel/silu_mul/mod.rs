//! `silu(gate) ∘ up`: the gate of a SwiGLU MLP in one pass.

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
use burn::tensor::{Device, Tensor, activation};

/// Whether this device has a kernel.
pub fn has_kernel(device: &Device) -> bool {
    super::is_flex(device) || super::is_libtorch(device) || super::is_cube(device)
}

/// `silu(gate) ∘ up`, `silu(x) = x / (1 + e^-x)` (Shazeer, 2020, arXiv:2002.05202, §2).
///
/// # Shapes
/// - `gate`, `up`, result: the same
///
/// # Panics
/// If the shapes differ.
pub fn silu_mul<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    assert_eq!(gate.dims(), up.dims(), "silu_mul: gate and up");
    #[cfg(feature = "flex")]
    if has_kernel(&gate.device()) {
        return Tensor::from_dispatch(<Dispatch as SiluMul>::silu_mul(gate.into_dispatch(), up.into_dispatch()));
    }
    silu_mul_reference(gate, up)
}

/// [`silu_mul`] by Burn's operations.
pub fn silu_mul_reference<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    activation::silu(gate) * up
}

/// The operation of a backend.
#[cfg(feature = "flex")]
#[backend_extension(Flex, LibTorch: cfg(feature = "tch"), Cube: cfg(feature = "cube"), Autodiff)]
pub(super) trait SiluMul: Backend {
    /// `silu(gate) ∘ up`.
    fn silu_mul(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// The gradient of a backend, for [`Autodiff`](burn::backend::Autodiff).
#[cfg(feature = "flex")]
pub(super) trait SiluMulBackward: SiluMul {
    /// `(dgate, dup) = (dy ∘ up ∘ silu'(gate), dy ∘ silu(gate))`.
    fn silu_mul_backward(
        grad: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::tensor::{Device, Distribution, Tolerance};

    use super::*;

    #[test]
    fn the_kernel_gives_the_values_and_gradients_of_the_reference() {
        let device = Device::flex().autodiff();
        for shape in [[1, 1], [3, 17], [40, 1000]] {
            let random = || Tensor::<2>::random(shape, Distribution::Normal(0.0, 4.0), &device).require_grad();
            let (gate, up, scale) = (random(), random(), random());
            let run = |f: fn(Tensor<2>, Tensor<2>) -> Tensor<2>| {
                let y = f(gate.clone(), up.clone());
                let grads = (y.clone() * scale.clone()).sum().backward();
                [y.inner().into_data(), gate.grad(&grads).unwrap().into_data(), up.grad(&grads).unwrap().into_data()]
            };
            for (found, expected) in run(silu_mul).iter().zip(&run(silu_mul_reference)) {
                found.assert_approx_eq::<f32>(expected, Tolerance::rel_abs(1e-5, 1e-5));
            }
        }
    }
}
