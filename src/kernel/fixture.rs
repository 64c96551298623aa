//! Inputs for tests of kernels.

use burn::tensor::{Device, Distribution, Tensor};

/// Samples of `N(0, 1)`.
pub(super) fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}
