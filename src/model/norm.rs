//! Root-mean-square norm with a learned gain.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::kernel::rms_norm::rms_norm;

/// `y = x / √(mean(x²) + ε) ∘ weight`.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[hidden_size]`, always float32.
    pub weight: Param<Tensor<1>>,
    epsilon: f64,
}

impl RmsNorm {
    /// A norm with this gain and `ε`.
    pub fn new(weight: Param<Tensor<1>>, epsilon: f64) -> Self {
        Self { weight, epsilon }
    }

    /// Normalizes the last axis.
    ///
    /// # Panics
    /// If the last axis of `x` is not `hidden_size`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        rms_norm(x, self.weight.val(), self.epsilon)
    }
}
