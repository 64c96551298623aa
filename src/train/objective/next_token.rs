//! Language modeling: cross entropy of the next token, and the load-balancing loss of a sparse model.

use burn::tensor::Tensor;

use super::{Accumulate, Objective, Targets};
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
