//! Training: windows of tokens in, a model that predicts them better out.
//!
//! [`Training`] is the loop turned inside out: each call of [`step`](Training::step) takes the next batch of the
//! order and returns what happened, so that the caller decides when to evaluate, print and stop.

mod loss;
mod optimizer;
mod router;
mod schedule;

pub use loss::load_balancing_loss;
pub use optimizer::{AdamW, AdamWConfig, global_norm};
pub use router::RouterStats;
pub use schedule::Schedule;

use std::time::Instant;

use burn::module::ModuleDisplay;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::data::{WindowOrder, Windows};
use crate::model::{CausalLm, HiddenStates, loss::mean};
use crate::trace::span;

/// How to train.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainConfig {
    /// Windows per update.
    pub batch_size: usize,
    /// Windows per forward and backward pass; gradients are accumulated over `batch_size / micro_batch_size` passes.
    /// Cross entropy does not depend on it; the balancing loss of a sparse model does, as it is taken pass by pass.
    pub micro_batch_size: usize,
    /// Learning rate over the steps.
    pub schedule: Schedule,
    /// Moments and decay.
    pub optimizer: AdamWConfig,
    /// Largest global norm of the gradient; what is above is scaled down to it.
    pub max_grad_norm: f64,
}

/// Why training cannot start.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The batch is not a whole number of micro-batches.
    #[error("batch_size {batch_size} is not a positive multiple of micro_batch_size {micro_batch_size}")]
    UnevenBatch {
        /// Windows per update.
        batch_size: usize,
        /// Windows per pass.
        micro_batch_size: usize,
    },
    /// Windows longer than the model's positions.
    #[error("windows of {seq_length} tokens are longer than max_position_embeddings {max_position_embeddings}")]
    WindowTooLong {
        /// Tokens per window.
        seq_length: usize,
        /// Positions of the model.
        max_position_embeddings: usize,
    },
}

/// What one update did.
#[derive(Debug, Clone, PartialEq)]
pub struct StepLog {
    /// Number of this update, from 1.
    pub step: usize,
    /// Tokens trained on so far.
    pub num_tokens: usize,
    /// Mean cross entropy of the batch before the update, in nats.
    pub loss_nats: f64,
    /// Balancing loss before its coefficient, mean over layers; `None` for a dense model.
    pub aux_loss: Option<f64>,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate of the update.
    pub learning_rate: f64,
    /// Wall-clock time of the update.
    pub wall_s: f64,
    /// What the router of each sparse layer did in this batch, first layer first.
    pub routers: Vec<RouterStats>,
}

/// The model is only out of its place while [`Training::step`] runs.
const IN_PLACE: &str = "a step puts the model back";

/// A model in training.
#[derive(Debug)]
pub struct Training<'a, M> {
    /// Taken out during an update, so that nobody else holds its buffers and they change in place.
    model: Option<M>,
    windows: &'a Windows,
    order: WindowOrder,
    config: TrainConfig,
    optimizer: AdamW,
    device: Device,
    step: usize,
}

impl<'a, M: CausalLm + ModuleDisplay> Training<'a, M> {
    /// Puts `model` in front of `windows`, to see them in `order`. The model must be on an autodiff device.
    ///
    /// # Errors
    /// [`TrainError`], before any work.
    ///
    /// # Panics
    /// If the model's device does not record gradients.
    pub fn new(
        model: M,
        windows: &'a Windows,
        order: WindowOrder,
        config: TrainConfig,
        device: &Device,
    ) -> Result<Self, TrainError> {
        assert!(device.is_autodiff(), "training needs a device that records gradients");
        let TrainConfig { batch_size, micro_batch_size, .. } = config;
        if micro_batch_size == 0 || batch_size == 0 || batch_size % micro_batch_size != 0 {
            return Err(TrainError::UnevenBatch { batch_size, micro_batch_size });
        }
        let seq_length = windows.seq_length();
        let max_position_embeddings = model.config().max_position_embeddings;
        if seq_length > max_position_embeddings {
            return Err(TrainError::WindowTooLong { seq_length, max_position_embeddings });
        }
        let optimizer = AdamW::new(config.optimizer);
        Ok(Self { model: Some(model), windows, order, config, optimizer, device: device.clone(), step: 0 })
    }

    /// The model as it stands.
    pub fn model(&self) -> &M {
        self.model.as_ref().expect(IN_PLACE)
    }

    /// The model, trained so far.
    pub fn into_model(self) -> M {
        self.model.expect(IN_PLACE)
    }

    /// One update on the next batch.
    pub fn step(&mut self) -> StepLog {
        let batch = self.order.batch(self.step, self.config.batch_size);
        let start = Instant::now();
        let model = self.model.take().expect(IN_PLACE);
        let passes: Vec<&[usize]> = batch.chunks(self.config.micro_batch_size).collect();
        let share = 1.0 / passes.len() as f64;
        let mut gradients = GradientsAccumulator::new();
        let (mut loss_nats, mut aux_loss) = (0.0, None);
        let mut routers = Vec::new();
        for pass in &passes {
            let (inputs, targets) = self.batch(pass);
            let HiddenStates { last, routing } = {
                let _span = span("forward");
                model.hidden_states(inputs, None)
            };
            let in_loss = span("loss");
            let loss = mean(model.token_losses(last, targets));
            loss_nats += share * scalar(&loss);
            let loss = match model.config().moe {
                None => loss,
                Some(moe) => {
                    let balance = load_balancing_loss(&routing);
                    *aux_loss.get_or_insert(0.0) += share * scalar(&balance);
                    RouterStats::add(&mut routers, &routing);
                    loss + balance * moe.router_aux_loss_coef
                }
            };
            drop(in_loss);
            let _span = span("backward");
            let grads = GradientsParams::from_grads((loss * share).backward(), &model);
            gradients.accumulate(&model, grads);
        }
        let grads = gradients.grads();
        let in_clipping = span("clipping");
        let grad_norm = global_norm(&model, &grads);
        drop(in_clipping);
        let scale =
            if grad_norm > self.config.max_grad_norm { self.config.max_grad_norm / (grad_norm + 1e-6) } else { 1.0 };
        let learning_rate = self.config.schedule.learning_rate(self.step);
        let in_optimizer = span("optimizer");
        self.model = Some(self.optimizer.step(model, grads, learning_rate, scale));
        drop(in_optimizer);
        self.step += 1;
        StepLog {
            step: self.step,
            num_tokens: self.step * self.config.batch_size * self.windows.seq_length(),
            loss_nats,
            aux_loss,
            grad_norm,
            learning_rate,
            wall_s: start.elapsed().as_secs_f64(),
            routers,
        }
    }

    fn batch(&self, windows: &[usize]) -> (Tensor<2, Int>, Tensor<2, Int>) {
        let gather = |row: &dyn Fn(usize) -> &'a [u32]| {
            let ids: Vec<i32> = windows.iter().flat_map(|&w| row(w)).map(|&id| id as i32).collect();
            Tensor::from_data(TensorData::new(ids, [windows.len(), self.windows.seq_length()]), &self.device)
        };
        (gather(&|w| self.windows.inputs(w)), gather(&|w| self.windows.targets(w)))
    }
}

fn scalar(loss: &Tensor<1>) -> f64 {
    f64::from(loss.clone().into_scalar::<f32>())
}
