//! The training loop: one update at a time.

use std::time::Instant;

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};

use super::objective::{Accumulate, Objective};
use super::optimizer::{AdamW, global_norm};
use super::schedule::Schedule;
use crate::trace::span;

/// How updates are scaled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainConfig {
    /// Learning rate over the steps.
    pub schedule: Schedule,
    /// Largest global norm of the gradient; a longer gradient is scaled down to it.
    pub max_grad_norm: f64,
}

/// One update.
#[derive(Debug, Clone, PartialEq)]
pub struct StepLog<L> {
    /// Number of this update, from 1; one that was not made has the number of the next.
    pub step: usize,
    /// Targets that the loss averages over.
    pub num_targets: usize,
    /// Mean loss of the batch before the update.
    pub loss: f64,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate of the update.
    pub learning_rate: f64,
    /// Whether the update was made. One with a loss or gradient that is not finite is not.
    pub is_updated: bool,
    /// Wall-clock time of the update.
    pub wall_s: f64,
    /// The log of the objective.
    pub log: L,
}

/// The model is absent only during [`Trainer::step`].
const IN_PLACE: &str = "a step puts the model back";

/// A model in training.
#[derive(Debug)]
pub struct Trainer<M, O> {
    /// Taken out during an update: its buffers then have one owner and change in place.
    model: Option<M>,
    objective: O,
    optimizer: AdamW,
    config: TrainConfig,
}

impl<M: Module, O: Objective<M>> Trainer<M, O> {
    /// Trains `model` with the state of `optimizer`: a new optimizer starts at step 0, a restored one continues its run.
    ///
    /// # Panics
    /// If a device of the model records no gradients.
    pub fn new(model: M, objective: O, optimizer: AdamW, config: TrainConfig) -> Self {
        assert!(
            model.devices().iter().all(|device| device.is_autodiff()),
            "training needs a device that records gradients"
        );
        Self { model: Some(model), objective, optimizer, config }
    }

    /// The model.
    pub fn model(&self) -> &M {
        self.model.as_ref().expect(IN_PLACE)
    }

    /// Replaces the model, which must keep its parameters.
    pub fn map_model(&mut self, map: impl FnOnce(M) -> M) {
        self.model = self.model.take().map(map);
    }

    /// The optimizer, whose state resumes this run.
    pub fn optimizer(&self) -> &AdamW {
        &self.optimizer
    }

    /// The trained model.
    pub fn into_model(self) -> M {
        self.model.expect(IN_PLACE)
    }

    /// One update from the gradients of all micro-batches, each weighted by its share of the targets. If the loss or the
    /// gradient is not finite, neither the model nor the state of the optimizer changes.
    ///
    /// # Panics
    /// If no micro-batch has a target.
    pub fn step(&mut self, batches: &[O::Batch]) -> StepLog<O::Log> {
        let start = Instant::now();
        let model = self.model.take().expect(IN_PLACE);
        let num_targets: usize = batches.iter().map(|batch| self.objective.num_targets(batch)).sum();
        assert!(num_targets > 0, "an update needs a target");
        let mut gradients = GradientsAccumulator::new();
        let (mut loss, mut log) = (0.0, O::Log::default());
        for batch in batches {
            let share = match self.objective.num_targets(batch) {
                0 => continue,
                targets => targets as f64 / num_targets as f64,
            };
            let (pass_loss, pass_log) = self.objective.loss(&model, batch);
            loss += share * f64::from(pass_loss.clone().into_scalar::<f32>());
            log.add(pass_log, share);
            let _span = span("backward");
            let grads = GradientsParams::from_grads((pass_loss * share).backward(), &model);
            gradients.accumulate(&model, grads);
        }
        let grads = gradients.grads();
        let grad_norm = {
            let _span = span("clipping");
            global_norm(&model, &grads)
        };
        let max_norm = self.config.max_grad_norm;
        // As PyTorch's `clip_grad_norm_`.
        let scale = if grad_norm > max_norm { max_norm / (grad_norm + 1e-6) } else { 1.0 };
        let num_steps = self.optimizer.num_steps();
        let learning_rate = self.config.schedule.learning_rate(num_steps);
        let is_updated = loss.is_finite() && grad_norm.is_finite();
        self.model = Some(if is_updated {
            let _span = span("optimizer");
            self.optimizer.step(model, grads, learning_rate, scale)
        } else {
            model
        });
        StepLog {
            step: num_steps + 1,
            num_targets,
            loss,
            grad_norm,
            learning_rate,
            is_updated,
            wall_s: start.elapsed().as_secs_f64(),
            log,
        }
    }
}
