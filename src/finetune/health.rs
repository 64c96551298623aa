//! Signs that a run learns nothing: a constant loss, or a router that sends every token to one expert.

use std::fmt;

use crate::train::RouterStats;

/// Successive updates with one loss, to the bit, before a warning.
const CONSTANT_UPDATES: usize = 20;
/// Successive updates with a collapsed router before a warning.
const COLLAPSED_UPDATES: usize = 100;
/// An expert that more than this share of the tokens visit has taken over its layer.
const COLLAPSED_SHARE: f64 = 0.9;

/// A sign that a run learns nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Warning {
    /// The loss was the same in many successive updates.
    ConstantLoss {
        /// The loss.
        loss: f64,
        /// The updates.
        num_updates: usize,
    },
    /// Almost every token visited one expert in many successive updates.
    CollapsedRouter {
        /// The layer, from 0 among those with experts.
        layer: usize,
        /// The expert, from 0.
        expert: usize,
        /// Share of the tokens of the last update that visited it.
        share: f64,
        /// The updates.
        num_updates: usize,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::ConstantLoss { loss, num_updates } if *loss == 0.0 => write!(
                f,
                "the loss of {num_updates} successive updates is 0: nothing is learned. Likely, no token of these rows is trained \
                 (all are masked or cut off), or the model has memorized them"
            ),
            Self::ConstantLoss { loss, num_updates } => write!(
                f,
                "the loss of {num_updates} successive updates is {loss}, to the bit: the model does not change. Likely, the learning \
                 rate is 0 or too small for float32, or the parameters that the loss depends on are frozen"
            ),
            Self::CollapsedRouter { layer, expert, share, num_updates } => write!(
                f,
                "layer {layer}: expert {expert} got more than {:.0} % of the tokens in {num_updates} successive updates ({:.1} % in the \
                 last): the router has collapsed. A larger --router-aux-loss-coef or a --router-bias-update-rate spreads them",
                100.0 * COLLAPSED_SHARE,
                100.0 * share
            ),
        }
    }
}

/// Watches the updates of a run. A collapsed router is warned of once, a constant loss each time that it stops moving.
///
/// It is not part of the state of a run: a resumed run starts with a new one.
#[derive(Debug, Clone, Default)]
pub struct HealthWatch {
    /// Experts that a token visits.
    experts_per_token: usize,
    last_loss: Option<f64>,
    /// Updates with the last loss.
    num_constant: usize,
    /// Per layer and expert, updates since it was last visited by no more than [`COLLAPSED_SHARE`] of the tokens.
    num_collapsed: Vec<Vec<usize>>,
    has_warned_of_router: bool,
}

impl HealthWatch {
    /// Watches a model whose tokens visit `experts_per_token` experts; 0 for a dense one.
    pub fn new(experts_per_token: usize) -> Self {
        Self { experts_per_token, ..Self::default() }
    }

    /// Sees the loss of an update. One without a target has the loss 0.
    pub fn see_loss(&mut self, loss: f64) -> Option<Warning> {
        self.num_constant = if self.last_loss == Some(loss) { self.num_constant + 1 } else { 1 };
        self.last_loss = Some(loss);
        // Once, unless the loss moves and stands still again.
        (self.num_constant == CONSTANT_UPDATES).then_some(Warning::ConstantLoss { loss, num_updates: CONSTANT_UPDATES })
    }

    /// Sees the visits of an update to the experts of each layer.
    pub fn see_routers(&mut self, routers: &[RouterStats]) -> Option<Warning> {
        self.num_collapsed.resize(routers.len(), Vec::new());
        let mut found = None;
        for (layer, (stats, counts)) in routers.iter().zip(&mut self.num_collapsed).enumerate() {
            counts.resize(stats.visits.len(), 0);
            // Where each token visits all experts, no router chooses.
            if stats.visits.len() <= self.experts_per_token {
                continue;
            }
            for (expert, (load, count)) in stats.load().into_iter().zip(counts).enumerate() {
                // A token visits an expert at most once, so the largest load is `1 / experts_per_token`.
                let share = load * self.experts_per_token as f64;
                *count = if share > COLLAPSED_SHARE { *count + 1 } else { 0 };
                if *count >= COLLAPSED_UPDATES && found.is_none() {
                    found = Some(Warning::CollapsedRouter { layer, expert, share, num_updates: COLLAPSED_UPDATES });
                }
            }
        }
        found.filter(|_| !std::mem::replace(&mut self.has_warned_of_router, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(losses: impl IntoIterator<Item = f64>) -> Vec<Warning> {
        let mut watch = HealthWatch::new(0);
        losses.into_iter().filter_map(|loss| watch.see_loss(loss)).collect()
    }

    fn collapses(experts_per_token: usize, updates: impl IntoIterator<Item = Vec<Vec<u64>>>) -> Vec<Warning> {
        let mut watch = HealthWatch::new(experts_per_token);
        let layers =
            updates.into_iter().map(|layers| layers.into_iter().map(|visits| RouterStats { visits }).collect());
        layers.filter_map(|layers: Vec<_>| watch.see_routers(&layers)).collect()
    }

    #[test]
    fn a_loss_that_stands_still_is_told_once() {
        let zero = warnings([0.0; 100]);
        assert_eq!(zero, [Warning::ConstantLoss { loss: 0.0, num_updates: 20 }]);
        assert!(zero[0].to_string().contains("no token of these rows is trained"), "{}", zero[0]);
        let [constant] = &warnings([2.5; 20])[..] else { panic!("one warning") };
        assert!(constant.to_string().contains("the learning rate is 0"), "{constant}");
    }

    #[test]
    fn a_loss_that_moves_by_a_bit_or_stands_still_for_less_is_not_told() {
        assert_eq!(warnings([2.5; 19]), []);
        assert_eq!(warnings((0..100).map(|at| if at % 19 == 0 { 2.5f64.next_up() } else { 2.5 })), []);
        assert_eq!(warnings((0..100).map(|at| f64::from(at % 2))), []);
    }

    #[test]
    fn an_expert_that_takes_a_layer_is_told_once_by_its_place() {
        let updates = std::iter::repeat_n(vec![vec![25, 25, 25, 25], vec![3, 0, 97, 0]], 300);
        let found = collapses(1, updates);
        assert_eq!(found, [Warning::CollapsedRouter { layer: 1, expert: 2, share: 0.97, num_updates: 100 }]);
        let said = found[0].to_string();
        assert!(said.starts_with("layer 1: expert 2 got more than 90 %") && said.contains("97.0 %"), "{said}");
    }

    #[test]
    fn the_share_is_of_tokens_so_one_of_two_choices_is_enough() {
        // 100 tokens: all of them visit expert 0, and one of the others.
        let all_visit_one = vec![vec![100, 40, 30, 30]];
        assert_eq!(collapses(2, std::iter::repeat_n(all_visit_one, 100)).len(), 1);
        let most_visit_one = vec![vec![90, 50, 30, 30]];
        assert_eq!(collapses(2, std::iter::repeat_n(most_visit_one, 300)), []);
        // Two experts that every token visits leave nothing to choose.
        assert_eq!(collapses(2, std::iter::repeat_n(vec![vec![100, 100]], 300)), []);
    }

    #[test]
    fn short_runs_and_interrupted_collapses_are_not_told() {
        let collapsed = || vec![vec![100, 0, 0, 0]];
        assert_eq!(collapses(1, std::iter::repeat_n(collapsed(), 99)), []);
        let interrupted = (0..500).map(|at| if at % 99 == 0 { vec![vec![25, 25, 25, 25]] } else { collapsed() });
        assert_eq!(collapses(1, interrupted), []);
        assert_eq!(collapses(0, std::iter::repeat_n(Vec::new(), 300)), []);
    }
}
