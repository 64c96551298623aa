//! Objectives: a micro-batch in, a loss and a log out.

mod dpo;
mod next_token;
mod targets;

pub use dpo::{Dpo, DpoLog, DpoLoss, PairBatch, initial_loss};
pub use next_token::{NextToken, NextTokenBatch, NextTokenLog};
pub use targets::Targets;

use burn::tensor::Tensor;

/// A loss over micro-batches for models of type `M`.
pub trait Objective<M> {
    /// One micro-batch, on the device of the model.
    type Batch;
    /// The log of a pass beside its loss.
    type Log: Accumulate;

    /// Number of targets that the loss averages over: tokens in language modeling, pairs in preference learning. Under
    /// gradient accumulation, each micro-batch is weighted by its share of the targets.
    fn num_targets(&self, batch: &Self::Batch) -> usize;

    /// The mean loss over the targets of `batch`, `[1]`, and the log of the pass.
    fn loss(&self, model: &M, batch: &Self::Batch) -> (Tensor<1>, Self::Log);
}

/// A log that is summed over the micro-batches of an update.
pub trait Accumulate: Default {
    /// Adds the log of one pass, whose micro-batch holds `share` of the targets of the update. Shares sum to 1.
    fn add(&mut self, pass: Self, share: f64);
}

/// For objectives that report nothing beside the loss.
impl Accumulate for () {
    fn add(&mut self, _pass: Self, _share: f64) {}
}
