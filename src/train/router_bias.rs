//! Balancing of experts without a loss: a bias for their choice, moved after every update.

use serde::{Deserialize, Serialize};

use super::router::RouterStats;

/// The bias of each expert of each sparse layer, first layer first; empty before the first update.
///
/// After an update, `b_e ← b_e + rate · sign(mean visits − visits_e)` (Wang et al., 2024, arXiv:2408.15664, algorithm 1): an
/// expert with too few visits becomes more likely to be chosen. Weights of experts and gradients do not see the bias.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RouterBias {
    layers: Vec<Vec<f32>>,
}

impl RouterBias {
    /// The bias of each expert, a row per layer.
    pub fn layers(&self) -> &[Vec<f32>] {
        &self.layers
    }

    /// The largest absolute bias; 0 before the first update.
    pub fn largest(&self) -> f64 {
        self.layers.iter().flatten().map(|bias| f64::from(bias.abs())).fold(0.0, f64::max)
    }

    /// Moves the bias by the visits of an update.
    pub fn update(&mut self, routers: &[RouterStats], rate: f64) {
        if self.layers.is_empty() {
            self.layers = routers.iter().map(|stats| vec![0.0; stats.visits.len()]).collect();
        }
        for (biases, stats) in self.layers.iter_mut().zip(routers) {
            let total: u64 = stats.visits.iter().sum();
            for (bias, visits) in biases.iter_mut().zip(&stats.visits) {
                // The sign of `mean − visits` in whole numbers.
                let error = i128::from(total) - i128::from(*visits) * stats.visits.len() as i128;
                *bias += error.signum() as f32 * rate as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bias_rises_below_the_mean_load_and_falls_above_it() {
        let mut bias = RouterBias::default();
        let stats = |visits: [u64; 4]| vec![RouterStats { visits: visits.to_vec() }];
        bias.update(&stats([0, 4, 4, 8]), 0.5);
        assert_eq!(bias.layers(), [[0.5, 0.0, 0.0, -0.5]]);
        bias.update(&stats([5, 1, 1, 1]), 0.25);
        assert_eq!(bias.layers(), [[0.25, 0.25, 0.25, -0.25]]);
        assert_eq!(bias.largest(), 0.25);
        let read: RouterBias = serde_json::from_str(&serde_json::to_string(&bias).unwrap()).unwrap();
        assert_eq!(read, bias);
    }
}
