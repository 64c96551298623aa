//! What a model knows: its loss on held-out text, which experts its tokens visit, and how far its logits are from those of
//! the model that it was grown from.

mod batch;
mod expert_load;
mod perplexity;
mod preservation;

pub use expert_load::expert_load;
pub use perplexity::mean_loss_nats;
pub use preservation::{LogitDivergence, logit_divergence, logits, rounding_tolerance};
