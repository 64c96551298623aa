//! Distributions over a vocabulary, from rows of logits.

use crate::generate::{argmax, log_sum_exp};

/// `ln softmax(logits)`.
pub(super) fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let log_sum = log_sum_exp(logits);
    logits.iter().map(|logit| f64::from(*logit) - log_sum).collect()
}

/// `KL(p ‖ q) = Σ p (ln p − ln q)` in nats, of `ln p` and `ln q`.
pub(super) fn kl_nats(log_p: &[f64], log_q: &[f64]) -> f64 {
    log_p.iter().zip(log_q).map(|(p, q)| p.exp() * (p - q)).sum()
}

/// Whether both have the same most likely token, of several the first. Logits that are not all numbers have none.
pub(super) fn same_top_1(p: &[f32], q: &[f32]) -> bool {
    argmax(p).zip(argmax(q)).is_some_and(|((p, _), (q, _))| p == q)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_divergence_of_two_coins() {
        let kl = |p: &[f32], q: &[f32]| kl_nats(&log_softmax(p), &log_softmax(q));
        let (p, q) = ([0.0f32, 0.0], [3f32.ln(), 0.0]);
        let expected = 0.5 * (0.5f64 / 0.75).ln() + 0.5 * (0.5f64 / 0.25).ln();
        assert!((kl(&p, &q) - expected).abs() < 1e-7);
        assert!(kl(&q, &q.map(|x| x + 5.0)).abs() < 1e-6, "a shift of all logits is no change");
    }

    #[test]
    fn logits_that_are_no_numbers_have_no_most_likely_token() {
        assert!(same_top_1(&[0.0, 2.0, 2.0], &[0.0, 1.0, 0.5]) && !same_top_1(&[0.0, 1.0], &[1.0, 0.0]));
        assert!(!same_top_1(&[f32::NAN, 1.0], &[f32::NAN, 1.0]));
    }
}
