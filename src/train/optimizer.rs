//! AdamW over the parameters of a module, with PyTorch's semantics, and the global norm of a gradient.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::param_groups::ParamGroups;
use super::param_path::ParamPath;
use crate::kernel::adamw::{AdamWState, AdamWStep, adamw, sum_of_squares};

/// Hyperparameters of AdamW. Weight decay applies to matrices; norm gains, which have one axis, do not decay.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
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
    /// The usual values for pretraining language models: `β = (0.9, 0.95)`, `ε = 1e-8`, decay 0.1.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1 }
    }
}

/// The optimizer and its state, keyed by the Hugging Face name of each weight.
///
/// The experts of a mixture are stacked, one parameter a projection. Their key is the name of one expert's projection
/// without the expert's number: `model.layers.0.block_sparse_moe.experts.w1.weight`.
#[derive(Debug, Clone)]
pub struct AdamW {
    pub(super) config: AdamWConfig,
    pub(super) moments: BTreeMap<String, Moments>,
    pub(super) num_steps: usize,
    pub(super) groups: ParamGroups,
}

/// The moments of one parameter, flat.
#[derive(Debug, Clone)]
pub(super) struct Moments {
    pub(super) first: Tensor<1>,
    pub(super) second: Tensor<1>,
    /// Shape of the parameter.
    pub(super) shape: Vec<usize>,
}

impl AdamW {
    /// An optimizer before its first step.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, moments: BTreeMap::new(), num_steps: 0, groups: ParamGroups::default() }
    }

    /// Multiplies the learning rate of each parameter by that of its group.
    #[must_use]
    pub fn with_groups(self, groups: ParamGroups) -> Self {
        Self { groups, ..self }
    }

    /// Updates so far.
    pub fn num_steps(&self) -> usize {
        self.num_steps
    }

    /// One update of every parameter that has a gradient; the gradient is multiplied by `gradient_scale` first.
    pub fn step<M: Module>(&mut self, model: M, grads: GradientsParams, learning_rate: f64, gradient_scale: f64) -> M {
        self.num_steps += 1;
        let AdamWConfig { beta1, beta2, epsilon, weight_decay } = self.config;
        let step = self.num_steps as u64;
        let step = AdamWStep { learning_rate, beta1, beta2, epsilon, weight_decay, step, gradient_scale };
        let path = ParamPath::default();
        model.map(&mut Update { step, moments: &mut self.moments, grads, groups: &self.groups, path })
    }
}

struct Update<'a> {
    step: AdamWStep,
    moments: &'a mut BTreeMap<String, Moments>,
    grads: GradientsParams,
    groups: &'a ParamGroups,
    path: ParamPath,
}

impl ModuleMapper for Update<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, mapper) = param.consume();
        let Some(grad) = self.grads.remove::<D>(id) else {
            return Param::from_mapped_value(id, value, mapper);
        };
        let shape = value.dims();
        let len = grad.shape().num_elements();
        let grad = grad.reshape([len]);
        let name = self.path.name();
        let zeros = || Moments { first: grad.zeros_like(), second: grad.zeros_like(), shape: shape.to_vec() };
        let Moments { first, second, .. } = self.moments.remove(&name).unwrap_or_else(zeros);
        let weight_decay = if D > 1 { self.step.weight_decay } else { 0.0 };
        let state = AdamWState { param: value.inner().reshape([len]), moment1: first, moment2: second };
        let learning_rate = self.step.learning_rate * self.groups.multiplier(&name);
        let state = adamw(state, grad, AdamWStep { learning_rate, weight_decay, ..self.step });
        self.moments.insert(name, Moments { first: state.moment1, second: state.moment2, shape: shape.to_vec() });
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
