//! What a router did in a batch: load, entropy, dead experts.

use super::loss::expert_visits;
use crate::model::Routing;

/// Visits to the experts of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct RouterStats {
    /// Visits to each expert.
    pub visits: Vec<u64>,
}

impl RouterStats {
    /// Adds the visits of one pass to those of the passes before it; `stats` is empty at first.
    pub(super) fn add(stats: &mut Vec<Self>, routing: &[Routing]) {
        if stats.is_empty() {
            let none = |routing: &Routing| Self { visits: vec![0; routing.scores.dims()[1]] };
            stats.extend(routing.iter().map(none));
        }
        for (stats, routing) in stats.iter_mut().zip(routing) {
            let visits = expert_visits(routing).into_data();
            stats.visits.iter_mut().zip(visits.iter::<f32>()).for_each(|(sum, new)| *sum += new as u64);
        }
    }

    /// Share of the visits that each expert got; they sum to 1.
    pub fn load(&self) -> Vec<f64> {
        let total = self.visits.iter().sum::<u64>().max(1) as f64;
        self.visits.iter().map(|&visits| visits as f64 / total).collect()
    }

    /// Standard deviation of the load over its mean: 0 at perfect balance.
    pub fn load_cv(&self) -> f64 {
        let (load, mean) = (self.load(), 1.0 / self.visits.len() as f64);
        let variance = load.iter().map(|share| (share - mean).powi(2)).sum::<f64>() / load.len() as f64;
        variance.sqrt() / mean
    }

    /// `−Σ load·ln load` in nats: `ln E` at perfect balance.
    pub fn entropy_nats(&self) -> f64 {
        self.load().into_iter().filter(|share| *share > 0.0).map(|share| -share * share.ln()).sum()
    }

    /// Experts that no token visited.
    pub fn dead_experts(&self) -> usize {
        self.visits.iter().filter(|visits| **visits == 0).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balance_has_the_entropy_of_the_number_of_experts_and_no_spread() {
        let stats = RouterStats { visits: vec![5; 8] };
        assert!((stats.entropy_nats() - 8f64.ln()).abs() < 1e-12);
        assert_eq!((stats.load_cv(), stats.dead_experts()), (0.0, 0));
    }

    #[test]
    fn collapse_has_no_entropy_and_dead_experts() {
        let stats = RouterStats { visits: vec![0, 40, 0, 0] };
        assert_eq!((stats.entropy_nats(), stats.dead_experts()), (0.0, 3));
        assert!((stats.load_cv() - 3f64.sqrt()).abs() < 1e-12);
    }
}
