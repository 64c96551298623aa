//! AdamW over the parameters of a model, with PyTorch's semantics, and the global norm of a gradient.

use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use crate::kernel::adamw::{AdamWState, AdamWStep, adamw, sum_of_squares};

/// Constants of AdamW. Matrices decay; norm gains, which have one axis, do not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    /// What language models are usually pretrained with: `β = (0.9, 0.95)`, `ε = 1e-8`, decay 0.1.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1 }
    }
}

/// The moments of every parameter, by its id.
#[derive(Debug, Clone)]
pub struct AdamW {
    config: AdamWConfig,
    /// First and second moment, flat.
    moments: HashMap<ParamId, (Tensor<1>, Tensor<1>)>,
    num_steps: u64,
}

impl AdamW {
    /// An optimizer that has seen nothing.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, moments: HashMap::new(), num_steps: 0 }
    }

    /// One update of every parameter that has a gradient, the gradient times `gradient_scale`.
    pub fn step<M: Module>(&mut self, model: M, grads: GradientsParams, learning_rate: f64, gradient_scale: f64) -> M {
        self.num_steps += 1;
        let AdamWConfig { beta1, beta2, epsilon, weight_decay } = self.config;
        let step = self.num_steps;
        let step = AdamWStep { learning_rate, beta1, beta2, epsilon, weight_decay, step, gradient_scale };
        model.map(&mut Update { step, moments: &mut self.moments, grads })
    }
}

struct Update<'a> {
    step: AdamWStep,
    moments: &'a mut HashMap<ParamId, (Tensor<1>, Tensor<1>)>,
    grads: GradientsParams,
}

impl ModuleMapper for Update<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, mapper) = param.consume();
        let Some(grad) = self.grads.remove::<D>(id) else {
            return Param::from_mapped_value(id, value, mapper);
        };
        let shape = value.dims();
        let len = grad.shape().num_elements();
        let grad = grad.reshape([len]);
        let zeros = || (grad.zeros_like(), grad.zeros_like());
        let (moment1, moment2) = self.moments.remove(&id).unwrap_or_else(zeros);
        let weight_decay = if D > 1 { self.step.weight_decay } else { 0.0 };
        let state = AdamWState { param: value.inner().reshape([len]), moment1, moment2 };
        let state = adamw(state, grad, AdamWStep { weight_decay, ..self.step });
        self.moments.insert(id, (state.moment1, state.moment2));
        let value = Tensor::from_inner(state.param.reshape(shape)).require_grad();
        Param::from_mapped_value(id, value, mapper)
    }
}

/// `√(Σ g²)` over the gradients of all parameters (`clip_grad_norm_` in PyTorch).
pub fn global_norm<M: Module>(model: &M, grads: &GradientsParams) -> f64 {
    struct Squares<'a> {
        grads: &'a GradientsParams,
        sum: f64,
    }

    impl ModuleVisitor for Squares<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.grads.get::<D>(param.id) {
                self.sum += sum_of_squares(grad);
            }
        }
    }

    let mut squares = Squares { grads, sum: 0.0 };
    model.visit(&mut squares);
    squares.sum.sqrt()
}
