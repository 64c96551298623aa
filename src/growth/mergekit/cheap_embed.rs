//! Router rows from the embeddings of prompts.

use std::collections::HashMap;

use crate::growth::{RouterRows, normalized};
use crate::weights::{TensorId, WeightError, WeightSource, widen_to_f32};

/// The prompts of an expert as token ids; in mergekit each begins with the BOS token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PromptTokens {
    /// Texts for this expert.
    pub positive: Vec<Vec<u32>>,
    /// Texts for other experts.
    pub negative: Vec<Vec<u32>>,
}

/// The rows of `gate_mode: cheap_embed`, `[experts, hidden_size]`, the same for every layer: the normalized sum of the
/// embeddings of the positive prompts minus that of the negative ones, normalized again.
///
/// The embeddings are streamed: memory is bounded by the rows.
///
/// # Errors
/// Those of reading `base`; [`WeightError::NotComputable`] if its embeddings are no floating-point numbers.
///
/// # Panics
/// If a token is not in the vocabulary of `base`.
pub fn cheap_embed(base: &impl WeightSource, experts: &[PromptTokens]) -> Result<Vec<f32>, WeightError> {
    let (id, config, found) = (TensorId::EmbedTokens, base.config(), base.dtype(TensorId::EmbedTokens));
    if !found.is_float() {
        return Err(WeightError::NotComputable { id, found, expected: "floating-point numbers to add" });
    }
    let hidden = config.hidden_size;
    let bags: Vec<&[Vec<u32>]> = experts.iter().flat_map(|e| [&e.positive[..], &e.negative[..]]).collect();
    // For each token, its count in each bag of prompts.
    let mut uses: HashMap<usize, Vec<(usize, f64)>> = HashMap::new();
    for (bag, prompts) in bags.iter().enumerate() {
        for &token in prompts.iter().flatten() {
            assert!((token as usize) < config.vocab_size, "token {token} of {}", config.vocab_size);
            let uses = uses.entry(token as usize).or_default();
            match uses.iter_mut().find(|(known, _)| *known == bag) {
                Some((_, times)) => *times += 1.0,
                None => uses.push((bag, 1.0)),
            }
        }
    }
    let mut sums = vec![vec![0.0; hidden]; bags.len()];
    let (mut place, mut values) = (0, Vec::new());
    base.stream(id, &mut |piece| {
        values.clear();
        widen_to_f32(piece, found, &mut values);
        for &value in &values {
            for &(bag, times) in uses.get(&(place / hidden)).into_iter().flatten() {
                sums[bag][place % hidden] += times * f64::from(value);
            }
            place += 1;
        }
        Ok(())
    })?;
    let mean = |sum: &Vec<f64>| normalized(sum.iter().map(|&x| x as f32).collect());
    Ok(sums.chunks(2).flat_map(|pair| RouterRows::direction(&mean(&pair[0]), &mean(&pair[1]))).collect())
}
