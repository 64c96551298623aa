//! How far a run is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::log::{LogEntry, LogWindow};
use crate::train::RouterBias;

/// Everything of a run besides its model and its optimizer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Updates made.
    pub step: usize,
    /// Tokens read.
    pub num_tokens: u64,
    /// Updates left out because they were not finite.
    pub num_skipped: u64,
    /// Sums for the next line of the log.
    pub window: LogWindow,
    /// Lines of the log so far.
    pub history: Vec<LogEntry>,
    /// The best held-out loss, and its step.
    pub best: Option<(f64, usize)>,
    /// The step of that loss, if its checkpoint is kept.
    pub best_checkpoint: Option<usize>,
    /// Evaluations since the best one.
    pub num_evals_since_best: usize,
    /// Bias for the choice of experts.
    pub router_bias: RouterBias,
    /// In preference learning, the log-probabilities of the reference, by pair.
    pub reference: BTreeMap<u64, [f32; 2]>,
}
