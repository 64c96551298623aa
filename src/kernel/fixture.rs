//! What the tests of several kernels begin with.

use burn::tensor::{Device, Distribution, Tensor};

/// Independent normal numbers.
pub(super) fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}
