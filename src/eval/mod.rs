//! Evaluation: the loss on held-out text, the load of experts, and the divergence of logits from those of the base.

mod batch;
mod expert_load;
mod perplexity;
mod preservation;

pub use expert_load::expert_load;
pub use perplexity::mean_loss_nats;
pub use preservation::{LogitDivergence, logit_divergence, logits, rounding_tolerance};
