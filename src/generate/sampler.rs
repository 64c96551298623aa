//! The choice of the next token.

use std::cmp::Ordering;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::Sampling;
use super::penalties::Penalties;

/// Most likely tokens that are sorted at first; more follow if their probabilities do not suffice.
const FIRST_SORTED: usize = 64;
/// Logits that are compared at once.
const LANES: usize = 32;

/// Chooses the tokens of one sequence.
///
/// A choice depends on the logits, the tokens so far, the seed, the number of the sequence among those of the seed and the
/// position in the output, and on nothing else.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    sequence: u64,
    position: u64,
    penalties: Penalties,
}

impl Sampler {
    /// For the sequence of this number that continues a prompt.
    pub fn new(sampling: Sampling, prompt: &[u32], sequence: usize) -> Self {
        Self { sampling, sequence: sequence as u64, position: 0, penalties: Penalties::new(&sampling, prompt) }
    }

    /// The next token, which becomes part of the output. `None` if no logit is finite, or one is not a number.
    pub fn choose(&mut self, logits: &[f32]) -> Option<u32> {
        let logits = self.penalties.apply(&self.sampling, logits);
        let (best, largest) = argmax(&logits)?;
        let id = match self.sampling.is_greedy() {
            true => best,
            false => self.draw(&kept(&logits, largest, &self.sampling)),
        };
        self.penalties.push(&self.sampling, id);
        self.position += 1;
        Some(id)
    }

    /// A token by the inverse of the cumulative distribution.
    fn draw(&self, weights: &[(u32, f64)]) -> u32 {
        let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
        let mut rest = self.uniform() * total;
        let found = weights.iter().find(|(_, weight)| {
            rest -= weight;
            rest < 0.0
        });
        // Rounding can leave a rest behind the last token.
        let last = || weights.iter().rfind(|(_, weight)| *weight > 0.0);
        found.or_else(last).expect("the most likely token has the weight 1").0
    }

    /// A number in `[0, 1)` for this seed, sequence and position.
    fn uniform(&self) -> f64 {
        let mut key = [0; 32];
        let words = [self.sampling.seed, self.sequence, self.position, 0];
        for (bytes, word) in key.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        ChaCha8Rng::from_seed(key).random()
    }
}

/// The first of the largest logits; `None` if it is not finite or some logit is not a number.
pub fn argmax(logits: &[f32]) -> Option<(u32, f32)> {
    // No logit depends on the one before and neither loop exits early, so the compiler vectorizes both.
    let (mut largest, mut is_nan) = ([f32::NEG_INFINITY; LANES], [false; LANES]);
    let (blocks, rest) = logits.as_chunks::<LANES>();
    for block in blocks {
        for ((largest, is_nan), logit) in largest.iter_mut().zip(&mut is_nan).zip(block) {
            *largest = if *logit > *largest { *logit } else { *largest };
            *is_nan |= logit.is_nan();
        }
    }
    for logit in rest {
        largest[0] = largest[0].max(*logit);
        is_nan[0] |= logit.is_nan();
    }
    let largest = largest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    if !largest.is_finite() || is_nan.contains(&true) {
        return None;
    }
    let has_largest = |block: &[f32]| block.iter().fold(false, |found, logit| found | (*logit == largest));
    let block = logits.chunks(LANES).position(has_largest)? * LANES;
    let id = block + logits[block..].iter().position(|logit| *logit == largest)?;
    Some((id as u32, largest))
}

/// Tokens that may be drawn, by id, with `exp((logit − largest) / temperature)`.
fn kept(logits: &[f32], largest: f32, sampling: &Sampling) -> Vec<(u32, f64)> {
    let weight = |logit: f32| ((f64::from(logit) - f64::from(largest)) / sampling.temperature).exp();
    let weighted = |(id, logit): (u32, f32)| (id, weight(logit));
    let tokens = (0..).zip(logits.iter().copied());
    let has_top_k = (1..logits.len()).contains(&sampling.top_k);
    let mut weights: Vec<(u32, f64)> = if has_top_k || sampling.top_p < 1.0 {
        let mut tokens: Vec<(u32, f32)> = tokens.collect();
        if has_top_k {
            tokens.select_nth_unstable_by(sampling.top_k - 1, likelier);
            tokens.truncate(sampling.top_k);
        }
        // By id, so that sums do not depend on how the tokens were selected.
        tokens.sort_unstable_by_key(|(id, _)| *id);
        if sampling.top_p < 1.0 {
            let total: f64 = tokens.iter().map(|(_, logit)| weight(*logit)).sum();
            keep_nucleus(&mut tokens, sampling.top_p * total, weight);
            tokens.sort_unstable_by_key(|(id, _)| *id);
        }
        tokens.into_iter().map(weighted).collect()
    } else {
        tokens.map(weighted).collect()
    };
    weights.retain(|(_, weight)| *weight >= sampling.min_p);
    weights
}

/// Keeps the fewest most likely tokens whose weights sum to at least `mass`, and at least one.
fn keep_nucleus(tokens: &mut Vec<(u32, f32)>, mass: f64, weight: impl Fn(f32) -> f64) {
    let (mut sorted, mut sum) = (0, 0.0);
    while sorted < tokens.len() {
        let more = (8 * sorted).max(FIRST_SORTED).min(tokens.len() - sorted);
        let rest = &mut tokens[sorted..];
        if more < rest.len() {
            rest.select_nth_unstable_by(more - 1, likelier);
        }
        rest[..more].sort_unstable_by(likelier);
        for (index, (_, logit)) in rest[..more].iter().enumerate() {
            sum += weight(*logit);
            if sum >= mass {
                return tokens.truncate(sorted + index + 1);
            }
        }
        sorted += more;
    }
}

/// The likelier token first; of equally likely ones, that of the smaller id.
pub(super) fn likelier(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::SamplingFields;

    const LOGITS: [f32; 8] = [0.3, 2.0, -1.0, 2.0, 1.2, f32::NEG_INFINITY, 0.0, -3.0];

    fn sampling(change: impl FnOnce(&mut SamplingFields)) -> Sampling {
        let mut fields = SamplingFields { temperature: 1.0, ..SamplingFields::default() };
        change(&mut fields);
        Sampling::new(fields).unwrap()
    }

    /// The probabilities of the tokens that may be drawn, by id.
    fn distribution(logits: &[f32], sampling: &Sampling) -> Vec<(u32, f64)> {
        let (_, largest) = argmax(logits).unwrap();
        let weights = kept(logits, largest, sampling);
        let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
        weights.into_iter().map(|(id, weight)| (id, weight / total)).collect()
    }

    fn ids(sampling: &Sampling) -> Vec<u32> {
        distribution(&LOGITS, sampling).into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn draws_have_the_exact_distribution() {
        let cases = [
            sampling(|f| f.temperature = 0.7),
            sampling(|f| f.top_k = 3),
            sampling(|f| f.top_p = 0.8),
            sampling(|f| (f.temperature, f.min_p) = (1.5, 0.2)),
        ];
        for (seed, case) in cases.into_iter().enumerate() {
            let expected = distribution(&LOGITS, &case);
            assert!((expected.iter().map(|(_, p)| p).sum::<f64>() - 1.0).abs() < 1e-12);
            let fields = SamplingFields { seed: seed as u64, ..*case };
            let (mut counts, num_draws) = ([0usize; 8], 20_000);
            // Half of the draws are positions of sequence 0, half are sequences.
            let mut first = Sampler::new(Sampling::new(fields).unwrap(), &[], 0);
            for draw in 0..num_draws {
                let mut other = Sampler::new(Sampling::new(fields).unwrap(), &[], draw);
                let sampler = if draw % 2 == 0 { &mut first } else { &mut other };
                counts[sampler.choose(&LOGITS).unwrap() as usize] += 1;
            }
            let possible: Vec<u32> = expected.iter().filter(|(_, p)| *p > 0.0).map(|(id, _)| *id).collect();
            assert!((0..8).all(|id| counts[id as usize] == 0 || possible.contains(&id)), "{counts:?}");
            let chi_square: f64 = expected
                .iter()
                .filter(|(_, p)| *p > 0.0)
                .map(|(id, p)| {
                    let mean = p * num_draws as f64;
                    (counts[*id as usize] as f64 - mean).powi(2) / mean
                })
                .sum();
            // The 0.999 quantiles for 1 to 6 degrees of freedom.
            let quantile = [10.83, 13.82, 16.27, 18.47, 20.52, 22.46][possible.len() - 2];
            assert!(chi_square < quantile, "{chi_square} of {} tokens", possible.len());
        }
    }

    #[test]
    fn the_first_of_the_largest_logits_is_found_at_any_place() {
        for len in [1, 31, 32, 33, 100] {
            for at in 0..len {
                let mut logits = vec![-1.5; len];
                logits[at..].fill(0.5);
                assert_eq!(argmax(&logits), Some((at as u32, 0.5)));
                logits[at] = f32::NAN;
                assert_eq!(argmax(&logits), None);
                logits[at] = f32::INFINITY;
                assert_eq!(argmax(&logits), None);
            }
        }
        assert_eq!(argmax(&[f32::NEG_INFINITY; 40]), None);
        assert_eq!(argmax(&[]), None);
    }

    #[test]
    fn probabilities_are_those_of_the_softmax() {
        let expected: Vec<f64> = LOGITS.iter().map(|x| (f64::from(*x) / 0.5).exp()).collect();
        let total: f64 = expected.iter().sum();
        for (id, p) in distribution(&LOGITS, &sampling(|f| f.temperature = 0.5)) {
            assert!((p - expected[id as usize] / total).abs() < 1e-12);
        }
    }

    #[test]
    fn filters_keep_the_likeliest_and_of_equal_ones_the_first() {
        assert_eq!(ids(&sampling(|f| f.top_k = 1)), [1]);
        assert_eq!(ids(&sampling(|f| f.top_k = 3)), [1, 3, 4]);
        assert_eq!(ids(&sampling(|f| f.top_k = 100)).len(), 8);
        assert_eq!(ids(&sampling(|f| f.top_p = 0.0)), [1]);
        assert_eq!(ids(&sampling(|f| f.top_p = 0.5)), [1, 3]);
        assert_eq!(ids(&sampling(|f| f.min_p = 1.0)), [1, 3]);
        assert_eq!(ids(&sampling(|f| (f.top_k, f.top_p) = (3, 0.99))), [1, 3, 4]);
    }

    #[test]
    fn a_nucleus_of_a_large_vocabulary_is_the_sorted_prefix() {
        let logits: Vec<f32> = (0..5000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 4e6).collect();
        for top_p in [0.1, 0.5, 0.9, 0.999] {
            let all = distribution(&logits, &sampling(|_| ()));
            let mut sorted = all.clone();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let mut sum = 0.0;
            let count = sorted
                .iter()
                .take_while(|(_, p)| {
                    let goes_on = sum < top_p;
                    sum += p;
                    goes_on
                })
                .count();
            let mut expected: Vec<u32> = sorted[..count].iter().map(|(id, _)| *id).collect();
            expected.sort_unstable();
            let found: Vec<u32> =
                distribution(&logits, &sampling(|f| f.top_p = top_p)).into_iter().map(|(id, _)| id).collect();
            assert_eq!(found, expected, "{top_p}");
        }
    }

    #[test]
    fn the_smallest_temperature_chooses_as_greedy_does_and_logits_that_are_no_numbers_are_noticed() {
        let mut cold = Sampler::new(sampling(|f| f.temperature = 1e-40), &[], 0);
        assert!([1, 3].contains(&cold.choose(&LOGITS).unwrap()));
        let mut greedy = Sampler::new(Sampling::greedy(), &[], 0);
        assert_eq!(greedy.choose(&LOGITS), Some(1));
        for bad in [[f32::NAN, 0.0], [0.0, f32::INFINITY], [f32::NEG_INFINITY; 2]] {
            assert_eq!(greedy.choose(&bad), None);
            assert_eq!(cold.choose(&bad), None);
        }
    }
}
