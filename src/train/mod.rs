//! Training: batches in, a better model and a log out.
//!
//! [`Trainer`] is the loop turned inside out: each [`step`](Trainer::step) makes one update from the micro-batches it is
//! given, so the caller decides when to evaluate, print and stop. An [`Objective`] turns a micro-batch into a loss;
//! [`NextToken`] is language modeling. The trainer owns accumulation, clipping, schedule and optimizer.

mod finite;
mod objective;
mod optimizer;
mod param_groups;
mod param_path;
mod router;
mod router_bias;
mod schedule;
mod state;
mod trainer;
mod window_batches;

pub use finite::first_nonfinite;
pub use objective::{
    Accumulate, Dpo, DpoLog, DpoLoss, NextToken, NextTokenBatch, NextTokenLog, Objective, PairBatch, Targets,
    initial_loss,
};
pub use optimizer::{AdamW, AdamWConfig, global_norm};
pub use param_groups::{ParamGroups, ParamNames};
pub use router::{RouterLoss, RouterStats, load_balancing_loss, router_z_loss};
pub use router_bias::RouterBias;
pub use schedule::{Decay, Schedule};
pub use state::StateError;
pub use trainer::{StepLog, TrainConfig, Trainer};
pub use window_batches::{BatchSize, TrainError, WindowBatches};
