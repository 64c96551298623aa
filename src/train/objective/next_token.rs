//! Language modeling: cross entropy of the next token, and the load-balancing loss of a sparse model.

use burn::tensor::{Device, Tensor, TensorData};

use super::{Accumulate, Objective, Targets};
use crate::config::DecoderConfig;
use crate::data::{WindowOrder, Windows};
use crate::kernel::linear_cross_entropy::Upstream;
use crate::model::loss::mean;
use crate::model::{CausalLm, HiddenStates, TokenBatch};
use crate::trace::span;
use crate::train::router::{RouterLoss, RouterStats};

/// `mean(−ln p(target)) + aux_loss_coef · balance + z_loss_coef · z`, the router's terms for sparse models only
/// ([`RouterLoss`]). These are taken per micro-batch, without padding: they depend on how a batch
/// is split, the cross entropy does not.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct NextToken {
    /// The terms of the router.
    pub router: RouterLoss,
}

/// Inputs and targets of a micro-batch.
#[derive(Debug, Clone)]
pub struct NextTokenBatch {
    /// Token ids that the model reads.
    pub inputs: TokenBatch,
    /// The tokens to predict.
    pub targets: Targets,
}

/// Losses and routing of one update, before its weights changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NextTokenLog {
    /// Mean cross entropy, in nats per token.
    pub loss_nats: f64,
    /// Load-balancing loss before its coefficient, mean over layers; `None` for a dense model.
    pub aux_loss: Option<f64>,
    /// Visits to the experts of each sparse layer, first layer first.
    pub routers: Vec<RouterStats>,
}

impl Accumulate for NextTokenLog {
    fn add(&mut self, pass: Self, share: f64) {
        self.loss_nats += share * pass.loss_nats;
        if let Some(aux_loss) = pass.aux_loss {
            *self.aux_loss.get_or_insert(0.0) += share * aux_loss;
        }
        RouterStats::add(&mut self.routers, pass.routers);
    }
}

impl<M: CausalLm> Objective<M> for NextToken {
    type Batch = NextTokenBatch;
    type Log = NextTokenLog;

    fn num_targets(&self, batch: &NextTokenBatch) -> usize {
        batch.targets.len()
    }

    fn loss(&self, model: &M, batch: &NextTokenBatch) -> (Tensor<1>, NextTokenLog) {
        let HiddenStates { last, routing } = {
            let _span = span("forward");
            model.hidden_states(batch.inputs.clone(), None)
        };
        let loss = mean(batch.targets.losses(model, last, Upstream::Equal));
        let loss_nats = scalar(&loss);
        let Some(moe) = model.config().moe else {
            return (loss, NextTokenLog { loss_nats, ..NextTokenLog::default() });
        };
        let tokens = batch.inputs.token_mask();
        let (router_loss, aux_loss) = self.router.of(&routing, tokens.as_ref(), moe.router_aux_loss_coef);
        let routers = RouterStats::of_layers(&routing, tokens.as_ref());
        (loss + router_loss, NextTokenLog { loss_nats, aux_loss: Some(aux_loss), routers })
    }
}

fn scalar(loss: &Tensor<1>) -> f64 {
    f64::from(loss.clone().into_scalar::<f32>())
}

/// Windows per update and per forward-backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSize {
    /// Windows per update.
    pub batch_size: usize,
    /// Windows per pass; gradients accumulate over `batch_size / micro_batch_size` passes.
    pub micro_batch_size: usize,
}

/// Why windows cannot be batched for a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
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
    /// Windows longer than the model's context.
    #[error("windows of {seq_length} tokens are longer than max_position_embeddings {max_position_embeddings}")]
    WindowTooLong {
        /// Tokens per window.
        seq_length: usize,
        /// Longest context of the model.
        max_position_embeddings: usize,
    },
}

/// The micro-batches of every update of a run: a function of the step alone.
#[derive(Debug)]
pub struct WindowBatches<'a> {
    windows: &'a Windows,
    order: WindowOrder,
    size: BatchSize,
    device: Device,
}

impl<'a> WindowBatches<'a> {
    /// Batches `windows` in `order` for a model of shape `config` on `device`.
    ///
    /// # Errors
    /// [`TrainError`].
    pub fn new(
        windows: &'a Windows,
        order: WindowOrder,
        size: BatchSize,
        config: &DecoderConfig,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let BatchSize { batch_size, micro_batch_size } = size;
        if micro_batch_size == 0 || batch_size == 0 || !batch_size.is_multiple_of(micro_batch_size) {
            return Err(TrainError::UnevenBatch { batch_size, micro_batch_size });
        }
        let (seq_length, max_position_embeddings) = (windows.seq_length(), config.max_position_embeddings);
        if seq_length > max_position_embeddings {
            return Err(TrainError::WindowTooLong { seq_length, max_position_embeddings });
        }
        Ok(Self { windows, order, size, device: device.clone() })
    }

    /// The micro-batches of the update after `step` others.
    pub fn of_step(&self, step: usize) -> Vec<NextTokenBatch> {
        let batch = self.order.batch(step, self.size.batch_size);
        batch.chunks(self.size.micro_batch_size).map(|windows| self.micro_batch(windows)).collect()
    }

    fn micro_batch(&self, windows: &[usize]) -> NextTokenBatch {
        let gather = |row: &dyn Fn(usize) -> &'a [u32]| {
            let ids: Vec<i32> = windows.iter().flat_map(|&w| row(w)).map(|&id| id as i32).collect();
            Tensor::from_data(TensorData::new(ids, [windows.len(), self.windows.seq_length()]), &self.device)
        };
        NextTokenBatch {
            inputs: gather(&|w| self.windows.inputs(w)).into(),
            targets: Targets::All(gather(&|w| self.windows.targets(w))),
        }
    }
}
