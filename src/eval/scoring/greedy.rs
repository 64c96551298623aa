//! Whether scored tokens are the most likely ones.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor};

use crate::eval::states::selected;
use crate::model::CausalLm;

/// Rows whose logits exist at once.
const CHUNK: usize = 128;

/// A scored token of a pass.
pub(super) struct Token {
    /// Row of the state that predicts it.
    pub position: usize,
    pub target: u32,
    /// `−ln p(target)`.
    pub loss: f32,
    /// The requests that have it.
    pub requests: Vec<usize>,
}

/// Decides about the tokens of a pass.
pub(super) struct Greedy<'a, M> {
    pub model: &'a M,
    /// The states of the pass, `[rows, hidden_size]`.
    pub hidden: &'a Tensor<2>,
    pub device: &'a Device,
}

impl<M: CausalLm> Greedy<'_, M> {
    /// Clears the flag of each request with a token that is not the most likely one.
    ///
    /// A token of probability above 1/2 is the most likely one, and one of probability below `1/vocab_size` is not. Of the
    /// others, logits are computed for the least likely token of each request first, which decides most requests.
    pub fn decide(&self, tokens: &[Token], greedy: &mut [bool]) {
        let never = (self.model.config().vocab_size as f32).ln() + 1e-3;
        let mut doubtful: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, token) in tokens.iter().enumerate().filter(|(_, token)| token.loss >= std::f32::consts::LN_2 - 1e-3)
        {
            for &request in &token.requests {
                greedy[request] &= token.loss <= never;
                doubtful.entry(request).or_default().push(index);
            }
        }
        doubtful.values_mut().for_each(|indices| indices.sort_by(|a, b| tokens[*a].loss.total_cmp(&tokens[*b].loss)));
        let mut known: BTreeMap<usize, bool> = BTreeMap::new();
        loop {
            doubtful.retain(|request, indices| greedy[*request] && !indices.is_empty());
            let mut asked: Vec<usize> = doubtful.values_mut().filter_map(Vec::pop).collect();
            asked.sort_unstable();
            asked.dedup();
            asked.retain(|index| !known.contains_key(index));
            if asked.is_empty() && doubtful.is_empty() {
                return;
            }
            for chunk in asked.chunks(CHUNK) {
                let best = self.most_likely(chunk.iter().map(|index| tokens[*index].position));
                for (&index, best) in chunk.iter().zip(best) {
                    let is_best = best == tokens[index].target;
                    known.insert(index, is_best);
                    tokens[index].requests.iter().for_each(|request| greedy[*request] &= is_best);
                }
            }
        }
    }

    /// The most likely token after each of these states, the first of several.
    fn most_likely(&self, positions: impl Iterator<Item = usize>) -> Vec<u32> {
        let logits = self.model.lm_head(selected(self.hidden, positions, self.device));
        logits.argmax(2).into_data().iter::<i64>().map(|id| id as u32).collect()
    }
}
