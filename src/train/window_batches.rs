//! Windows of documents as batches for a model.

use burn::tensor::{Device, Tensor, TensorData};

use super::objective::{NextTokenBatch, Targets};
use crate::config::DecoderConfig;
use crate::data::{WindowOrder, Windows};

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
