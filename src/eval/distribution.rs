//! Distributions over a vocabulary, from rows of logits.

/// `ln softmax(logits)`.
pub(super) fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(f64::from(x)));
    let log_sum = logits.iter().map(|&x| (f64::from(x) - largest).exp()).sum::<f64>().ln();
    logits.iter().map(|&x| f64::from(x) - largest - log_sum).collect()
}

/// `KL(p ‖ q) = Σ p (ln p − ln q)` in nats, of `ln p` and `ln q`.
pub(super) fn kl_nats(log_p: &[f64], log_q: &[f64]) -> f64 {
    log_p.iter().zip(log_q).map(|(p, q)| p.exp() * (p - q)).sum()
}

/// The first of the largest logits.
pub(super) fn argmax(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
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
}
