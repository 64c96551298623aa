//! Data and objective of a run.

use super::FinetuneError;
use crate::model::AnyDecoder;
use crate::train::{Objective, RouterStats, StepLog};

/// An update's batch for an objective.
pub struct Update<B> {
    /// The micro-batches; none if nothing in them is trained.
    pub batches: Vec<B>,
    /// Tokens that the model reads.
    pub num_tokens: u64,
}

/// Numbers of one update for the log, by TRL's keys.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Means over the update.
    pub entries: Vec<(&'static str, f64)>,
    /// Visits to the experts of each sparse layer.
    pub routers: Vec<RouterStats>,
}

/// Data and objective of a run. Batches are a function of the step, so no state of the data has to be saved.
pub trait Task {
    /// The objective.
    type Objective: Objective<AnyDecoder>;

    /// The objective.
    fn objective(&self) -> Self::Objective;

    /// The micro-batches of update `step`, counted from 0.
    ///
    /// # Errors
    /// If data can no longer be read.
    fn update(&self, step: usize) -> Result<Update<<Self::Objective as Objective<AnyDecoder>>::Batch>, FinetuneError>;

    /// Passes over the data after `step` updates.
    fn epoch(&self, step: usize) -> f64;

    /// The numbers of an update.
    fn report(log: &StepLog<<Self::Objective as Objective<AnyDecoder>>::Log>) -> Report;

    /// Held-out rows.
    fn num_heldout(&self) -> usize;

    /// The mean loss on held-out data; `None` if nothing is held out. The model is on the device of the run, which records
    /// gradients, and none of its parameters needs one.
    ///
    /// # Errors
    /// If data can no longer be read.
    fn evaluate(&self, model: &AnyDecoder) -> Result<Option<f64>, FinetuneError>;

    /// Where the rows of an update come from, for messages.
    fn names(&self, step: usize) -> Vec<String>;

    /// Expected loss of the first update and its rounding tolerance, if known.
    fn initial_loss(&self, _log: &<Self::Objective as Objective<AnyDecoder>>::Log) -> Option<(f64, f64)> {
        None
    }
}
