//! The divergence of a grown model from its base, on the same tokens.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::distribution::{kl_nats, log_softmax, same_top_1};
use crate::model::CausalLm;

/// Logits at every position of a text, `[num_tokens, vocab_size]`, row-major.
pub fn logits<M: CausalLm>(model: &M, ids: &[u32], device: &Device) -> Vec<f32> {
    let data: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(data, [1, ids.len()]), device);
    model.forward(tokens).logits.into_data().iter::<f32>().collect()
}

/// Largest `|Δlogit|`, relative to the largest `|logit|`, that rounding explains in a model of `num_layers` layers: 64 units
/// in the last place of float32 per layer, or, if weights were rounded to a type of this machine epsilon, 8 of those.
pub fn rounding_tolerance(num_layers: usize, epsilon: Option<f64>) -> f64 {
    let computed = 64.0 * f64::from(f32::EPSILON) * num_layers as f64;
    epsilon.map_or(computed, |epsilon| computed.max(8.0 * epsilon))
}

/// How far the logits of a model are from those of its base on a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogitDivergence {
    /// Positions compared.
    pub num_tokens: usize,
    /// `max |Δlogit|` over all positions and tokens of the vocabulary.
    pub max_abs_logit: f64,
    /// Largest `|logit|` of the base, to which rounding is relative.
    pub base_max_abs_logit: f64,
    /// Mean over positions of `KL(p ‖ q) = Σ p ln(p / q)` in nats; `p` is the distribution of the base.
    pub mean_kl_nats: f64,
    /// Share of positions at which both models have the same most likely token.
    pub top1_agreement: f64,
    /// Mean `−ln p(next token)` of the base, in nats.
    pub base_loss_nats: f64,
    /// The same of the other model.
    pub loss_nats: f64,
}

impl LogitDivergence {
    /// Whether all numbers are finite and no logit is off by more than `tolerance`, relative to the largest of the base or
    /// to 1.
    pub fn is_within(&self, tolerance: f64) -> bool {
        let is_finite = self.loss_nats.is_finite() && self.mean_kl_nats.is_finite();
        is_finite && self.max_abs_logit <= tolerance * self.base_max_abs_logit.max(1.0)
    }
}

/// Compares the [`logits`] of a base and of another model for the text `ids`.
///
/// # Panics
/// If the two differ in length, or there are fewer than two tokens.
pub fn logit_divergence(ids: &[u32], base: &[f32], other: &[f32]) -> LogitDivergence {
    assert_eq!(base.len(), other.len(), "logits of one vocabulary");
    assert!(ids.len() >= 2, "a token and the one after it");
    let vocab_size = base.len() / ids.len();
    // NaN counts as the largest.
    let largest =
        |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, |a: f64, b| if a.is_nan() || a > b { a } else { b });
    let (mut kl, mut agreeing, mut losses) = (0.0, 0, [0.0; 2]);
    let rows = base.chunks_exact(vocab_size).zip(other.chunks_exact(vocab_size));
    for (position, (base, other)) in rows.enumerate() {
        let (p, q) = (log_softmax(base), log_softmax(other));
        kl += kl_nats(&p, &q);
        agreeing += usize::from(same_top_1(base, other));
        if let Some(&next) = ids.get(position + 1) {
            losses[0] -= p[next as usize];
            losses[1] -= q[next as usize];
        }
    }
    let targets = (ids.len() - 1) as f64;
    LogitDivergence {
        num_tokens: ids.len(),
        max_abs_logit: largest(&mut base.iter().zip(other).map(|(a, b)| f64::from(a - b).abs())),
        base_max_abs_logit: largest(&mut base.iter().map(|a| f64::from(a.abs()))),
        mean_kl_nats: kl / ids.len() as f64,
        top1_agreement: agreeing as f64 / ids.len() as f64,
        base_loss_nats: losses[0] / targets,
        loss_nats: losses[1] / targets,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_does_not_diverge_from_itself() {
        let logits = [0.0, 1.0, 2.0, 5.0, -1.0, 0.5];
        let same = logit_divergence(&[0, 2], &logits, &logits);
        assert_eq!((same.max_abs_logit, same.mean_kl_nats, same.top1_agreement), (0.0, 0.0, 1.0));
        assert_eq!(same.loss_nats, same.base_loss_nats);
        assert_eq!(same.base_max_abs_logit, 5.0);
    }

    #[test]
    fn adding_one_number_to_all_logits_moves_them_but_not_the_distribution() {
        let logits = [0.0f32, 1.0, 2.0, 5.0, -1.0, 0.5];
        let moved = logits.map(|x| x + 0.25);
        let moved = logit_divergence(&[0, 2], &logits, &moved);
        assert_eq!(moved.max_abs_logit, 0.25);
        assert!(moved.mean_kl_nats.abs() < 1e-12);
    }

    #[test]
    fn what_is_no_number_does_not_pass_for_no_difference() {
        let broken = logit_divergence(&[0, 2], &[0.0; 6], &[0.0, f32::NAN, 0.0, 0.0, 0.0, 0.0]);
        assert!(broken.max_abs_logit.is_nan() && !broken.is_within(f64::INFINITY));
    }

    #[test]
    fn divergence_and_loss_are_those_of_two_coins() {
        let (base, other) = ([0.0f32, 0.0, 0.0, 0.0], [3f32.ln(), 0.0, 3f32.ln(), 0.0]);
        let found = logit_divergence(&[1, 0], &base, &other);
        let kl = 0.5 * (0.5f64 / 0.75).ln() + 0.5 * (0.5f64 / 0.25).ln();
        assert!((found.mean_kl_nats - kl).abs() < 1e-7);
        assert!((found.base_loss_nats - 2f64.ln()).abs() < 1e-12);
        assert!((found.loss_nats + 0.75f64.ln()).abs() < 1e-7);
        assert_eq!(found.top1_agreement, 1.0);
    }

    #[test]
    fn rounding_is_relative_to_the_largest_logit() {
        let (base, other) = ([100.0f32, 0.0, 0.0, 0.0], [100.5f32, 0.0, 0.0, 0.0]);
        let found = logit_divergence(&[0, 1], &base, &other);
        assert!(found.is_within(0.005) && !found.is_within(0.004));
        assert_eq!(rounding_tolerance(12, Some(0.0078125)), 0.0625);
        assert_eq!(rounding_tolerance(2, None), 128.0 * f64::from(f32::EPSILON));
    }
}
