//! Rotary position embedding of queries and keys, in the rotate-half layout of Hugging Face checkpoints.

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
use burn::tensor::{Device, Tensor};

/// Whether this device has a kernel.
pub fn has_kernel(device: &Device) -> bool {
    super::is_flex(device) || super::is_libtorch(device) || super::is_cube(device)
}

/// Rotates the pair `(x_i, x_{i + head_dim/2})` of token `t` by the angle whose cosine and sine are `cos[t, i]` and
/// `sin[t, i]` (Su et al., 2021, arXiv:2104.09864, §3.2).
///
/// # Shapes
/// - `x`, result: `[batch_size, seq_length, num_heads, head_dim]`
/// - `cos`, `sin`: `[batch_size, seq_length, head_dim / 2]`, or `[1, ..]` if all sequences have the same positions
///
/// # Panics
/// If the sizes disagree.
pub fn rope(x: Tensor<4>, cos: Tensor<3>, sin: Tensor<3>) -> Tensor<4> {
    assert_tables(&x, &cos, &sin);
    #[cfg(feature = "flex")]
    if has_kernel(&x.device()) {
        return Tensor::from_dispatch(<Dispatch as Rope>::rope_forward(
            x.into_dispatch(),
            cos.into_dispatch(),
            sin.into_dispatch(),
        ));
    }
    rope_reference(x, cos, sin)
}

pub(super) fn assert_tables(x: &Tensor<4>, cos: &Tensor<3>, sin: &Tensor<3>) {
    let ([batch_size, seq_length, _, head_dim], [rows, ..]) = (x.dims(), cos.dims());
    assert_eq!(cos.dims(), [rows, seq_length, head_dim / 2], "rope: table of cosines");
    assert!(rows == 1 || rows == batch_size, "rope: a table for {rows} of {batch_size} sequences");
    assert_eq!(cos.dims(), sin.dims(), "rope: tables");
}

/// The same by Burn's own operations.
pub fn rope_reference(x: Tensor<4>, cos: Tensor<3>, sin: Tensor<3>) -> Tensor<4> {
    let half = x.dims()[3] / 2;
    let [cos, sin] = [cos, sin].map(|table| table.unsqueeze_dim::<4>(2));
    let first = x.clone().narrow(3, 0, half);
    let second = x.narrow(3, half, half);
    let rotated_first = first.clone() * cos.clone() - second.clone() * sin.clone();
    Tensor::cat(vec![rotated_first, second * cos + first * sin], 3)
}

/// The operation on a backend; shapes are those of [`rope`].
#[cfg(feature = "flex")]
#[backend_extension(Flex, LibTorch: cfg(feature = "tch"), Cube: cfg(feature = "cube"), Autodiff)]
pub(super) trait Rope: Backend {
    fn rope_forward(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// The gradients of the operation on a backend.
#[cfg(feature = "flex")]
pub(super) trait RopeBackward: Rope {
    /// A rotation by the opposite angle.
    fn rope_backward(grad: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self>;
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::tensor::{Device, Tolerance};

    use super::*;
    use crate::kernel::fixture::random;

    #[test]
    fn the_kernel_gives_the_values_and_gradients_of_the_reference() {
        let device = Device::flex().autodiff();
        for (shape, rows) in [([1, 1, 1, 2], 1), ([2, 5, 3, 6], 1), ([2, 5, 3, 6], 2), ([3, 70, 4, 24], 3)] {
            let x = random(shape, &device).require_grad();
            let angles = random([rows, shape[1], shape[3] / 2], &device);
            let (cos, sin) = (angles.clone().cos(), angles.sin());
            let scale = random(shape, &device);
            let run = |f: fn(Tensor<4>, Tensor<3>, Tensor<3>) -> Tensor<4>| {
                let y = f(x.clone(), cos.clone(), sin.clone());
                let grads = (y.clone() * scale.clone()).sum().backward();
                [y.inner().into_data(), x.grad(&grads).unwrap().into_data()]
            };
            for (found, expected) in run(rope).iter().zip(&run(rope_reference)) {
                found.assert_approx_eq::<f32>(expected, Tolerance::absolute(1e-6));
            }
        }
    }

    #[test]
    fn a_turn_keeps_the_length_of_every_head() {
        let device = Device::flex();
        let x = random([2, 9, 3, 8], &device);
        let angles = random([2, 9, 4], &device);
        let turned = rope(x.clone(), angles.clone().cos(), angles.sin());
        let length = |x: Tensor<4>| x.square().sum_dim(3).into_data();
        length(turned).assert_approx_eq::<f32>(&length(x), Tolerance::absolute(1e-5));
    }
}
