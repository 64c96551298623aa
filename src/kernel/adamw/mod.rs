//! The AdamW update of one parameter, and the sum of squares for gradient clipping.

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

/// The scalar inputs of an update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Learning rate of this step, `γ`.
    pub learning_rate: f64,
    /// Decay rate of the first moment, `β₁`.
    pub beta1: f64,
    /// Decay rate of the second moment, `β₂`.
    pub beta2: f64,
    /// Term added to `√v̂` for stability, `ε`.
    pub epsilon: f64,
    /// Decoupled weight decay of this parameter, `λ`.
    pub weight_decay: f64,
    /// Step number `t`, from 1.
    pub step: u64,
    /// Factor on the gradient, for clipping.
    pub gradient_scale: f64,
}

impl AdamWStep {
    /// Bias corrections `1 / (1 − βᵗ)` of both moments.
    fn corrections(&self) -> (f64, f64) {
        let correction = |beta: f64| 1.0 / (1.0 - beta.powf(self.step as f64));
        (correction(self.beta1), correction(self.beta2))
    }
}

/// A parameter and its moments.
#[derive(Debug, Clone)]
pub struct AdamWState<const D: usize> {
    /// The parameter, `θ`.
    pub param: Tensor<D>,
    /// Exponential moving average of gradients, `m`.
    pub moment1: Tensor<D>,
    /// Exponential moving average of squared gradients, `v`.
    pub moment2: Tensor<D>,
}

/// `m ← β₁m + (1−β₁)g`, `v ← β₂v + (1−β₂)g²`, `θ ← θ − γλθ − γ·m̂ / (√v̂ + ε)` with `m̂ = m/(1−β₁ᵗ)`, `v̂ = v/(1−β₂ᵗ)`:
/// PyTorch's `torch.optim.AdamW` (Loshchilov & Hutter, 2019, arXiv:1711.05101, Algorithm 2). `g` is the gradient times
/// `gradient_scale`.
///
/// Buffers that no other tensor shares are updated in place.
///
/// # Panics
/// If the shapes of parameter and gradient differ.
pub fn adamw<const D: usize>(state: AdamWState<D>, grad: Tensor<D>, step: AdamWStep) -> AdamWState<D> {
    assert_eq!(state.param.dims(), grad.dims(), "adamw: parameter and gradient");
    #[cfg(feature = "flex")]
    if has_kernel(&grad.device()) {
        let (param, moment1, moment2) = <Dispatch as AdamWOps>::adamw_update(
            state.param.into_dispatch(),
            state.moment1.into_dispatch(),
            state.moment2.into_dispatch(),
            grad.into_dispatch(),
            step,
        );
        return AdamWState {
            param: Tensor::from_dispatch(param),
            moment1: Tensor::from_dispatch(moment1),
            moment2: Tensor::from_dispatch(moment2),
        };
    }
    adamw_reference(state, grad, step)
}

/// [`adamw`] by Burn's operations.
pub fn adamw_reference<const D: usize>(state: AdamWState<D>, grad: Tensor<D>, step: AdamWStep) -> AdamWState<D> {
    let AdamWStep { learning_rate, beta1, beta2, epsilon, weight_decay, gradient_scale, .. } = step;
    let (correction1, correction2) = step.corrections();
    let grad = grad * gradient_scale;
    let moment1 = state.moment1 * beta1 + grad.clone() * (1.0 - beta1);
    let moment2 = state.moment2 * beta2 + grad.square() * (1.0 - beta2);
    let update = moment1.clone() * correction1 / ((moment2.clone() * correction2).sqrt() + epsilon);
    let param = state.param * (1.0 - learning_rate * weight_decay) - update * learning_rate;
    AdamWState { param, moment1, moment2 }
}

/// `Σ x²`. The kernel sums chunks in float32 and their sums in float64, in an order independent of the number of threads.
pub fn sum_of_squares<const D: usize>(x: Tensor<D>) -> f64 {
    #[cfg(feature = "flex")]
    if has_kernel(&x.device()) {
        let sums: Tensor<1> = Tensor::from_dispatch(<Dispatch as AdamWOps>::squares_by_chunk(x.into_dispatch()));
        return sums.into_data().iter::<f32>().map(f64::from).sum();
    }
    f64::from(x.square().sum().into_scalar::<f32>())
}

/// The operations of a backend.
#[cfg(feature = "flex")]
#[backend_extension(Flex, LibTorch: cfg(feature = "tch"), Cube: cfg(feature = "cube"))]
pub(super) trait AdamWOps: Backend {
    /// Updated parameter and moments.
    fn adamw_update(
        param: FloatTensor<Self>,
        moment1: FloatTensor<Self>,
        moment2: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        step: AdamWStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// Sum of squares of each consecutive chunk.
    fn squares_by_chunk(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::tensor::{Device, Distribution, Tolerance};

    use super::*;

    fn random(len: usize) -> Tensor<1> {
        Tensor::random([len], Distribution::Normal(0.0, 1.0), &Device::flex())
    }

    const STEP: AdamWStep = AdamWStep {
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        step: 1,
        gradient_scale: 0.5,
    };

    fn fresh(param: Tensor<1>) -> AdamWState<1> {
        AdamWState { moment1: param.zeros_like(), moment2: param.zeros_like(), param }
    }

    #[test]
    fn the_kernel_equals_the_reference_over_several_steps() {
        for len in [1, 37, 40_000] {
            let param = random(len);
            let (mut fast, mut plain) = (fresh(param.clone()), fresh(param));
            for step in 1..=5 {
                let (grad, step) = (random(len), AdamWStep { step, ..STEP });
                fast = adamw(fast, grad.clone(), step);
                plain = adamw_reference(plain, grad, step);
            }
            fast.param.into_data().assert_approx_eq::<f32>(&plain.param.into_data(), Tolerance::absolute(1e-6));
            fast.moment2.into_data().assert_approx_eq::<f32>(&plain.moment2.into_data(), Tolerance::absolute(1e-6));
        }
    }

    #[test]
    fn a_shared_parameter_is_not_overwritten() {
        let param = random(50);
        let before = param.to_data();
        adamw(fresh(param.clone()), random(50), STEP);
        assert_eq!(param.into_data(), before);
    }

    #[test]
    fn the_first_step_is_signed_descent_with_decay() {
        let (param, grad) = (random(100), random(100));
        let step = AdamWStep { epsilon: 1e-12, ..STEP };
        let moved = adamw(fresh(param.clone()), grad.clone(), step).param;
        let expected = param * (1.0 - 1e-3) - grad.sign() * 1e-2;
        moved.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-6));
    }

    #[test]
    fn squares_are_summed_over_all_chunks() {
        assert_eq!(sum_of_squares(Tensor::<1>::full([100_001], 2.0, &Device::flex())), 400_004.0);
    }
}
