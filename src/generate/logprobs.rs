//! Log-probabilities of tokens.

use std::sync::Arc;

use super::sampler::likelier;

/// Log-probabilities of the tokens of a prompt: `None` for the first. All sequences of the prompt share them.
pub type PromptLogprobs = Arc<Vec<Option<TokenLogprob>>>;

/// The log-probability of a token, in nats, beside those of the most likely tokens. Penalties, temperature and filters do not
/// enter it.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// `ln p(token)`.
    pub logprob: f64,
    /// The most likely tokens, likeliest first; of equally likely ones, that of the smaller id.
    pub top: Vec<(u32, f64)>,
}

/// `ln Σ exp(logit)`. Summed in float64.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - largest).exp()).sum();
    largest + sum.ln()
}

/// `ln p(id)` under the softmax of `logits`, and the `num_top` most likely tokens. Summed in float64.
///
/// # Panics
/// If there is no logit for `id`.
pub fn token_logprob(logits: &[f32], id: u32, num_top: usize) -> TokenLogprob {
    let log_sum = log_sum_exp(logits);
    let logprob = |logit: f32| f64::from(logit) - log_sum;
    let num_top = num_top.min(logits.len());
    let mut top: Vec<(u32, f32)> = Vec::new();
    if num_top > 0 {
        top = (0..).zip(logits.iter().copied()).collect();
        top.select_nth_unstable_by(num_top - 1, likelier);
        top.truncate(num_top);
        top.sort_unstable_by(likelier);
    }
    let top = top.into_iter().map(|(id, logit)| (id, logprob(logit))).collect();
    TokenLogprob { logprob: logprob(logits[id as usize]), top }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_are_those_of_the_softmax() {
        let logits = [1.0f32, 3.0, 3.0, -50.0];
        let total: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
        let of = |logit: f64| logit - total.ln();
        let found = token_logprob(&logits, 0, 3);
        assert!((found.logprob - of(1.0)).abs() < 1e-12);
        assert_eq!(found.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2, 0]);
        assert!((found.top[0].1 - of(3.0)).abs() < 1e-12);
        assert_eq!(token_logprob(&logits, 3, 0).top, []);
        assert_eq!(token_logprob(&logits, 3, 9).top.len(), 4);
    }
}
