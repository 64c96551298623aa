//! A prompt on its way into a batch.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use rayon::prelude::*;

use super::{PromptLogprobs, Request, token_logprob};
use crate::model::{CausalLm, HiddenStates, KvCache, Routing, TokenBatch};

/// Tokens of a prompt in one pass: between two passes, the other sequences go on. A prompt is divided in the same way
/// whatever else is computed, so that it has the same bits.
pub(super) const CHUNK: usize = 512;
/// Positions whose logits are in memory at once.
const LOGIT_ROWS: usize = 32;

/// A prompt that is computed in a cache of its own, so that no other sequence is padded to its length.
#[derive(Debug)]
pub(super) struct Prefill {
    pub(super) number: u64,
    pub(super) request: Request,
    pub(super) cache: KvCache,
    /// Tokens whose keys and values are those of an earlier prompt.
    pub(super) num_cached: usize,
    /// Sequences of the request that have begun.
    pub(super) num_begun: usize,
    /// At the last position, once that is computed.
    pub(super) logits: Vec<f32>,
    /// The heaviest expert of each layer there.
    pub(super) experts: Vec<u32>,
    pub(super) logprobs: PromptLogprobs,
}

impl Prefill {
    pub(super) fn new<M: CausalLm>(model: &M, number: u64, request: Request, device: &Device) -> Self {
        Self {
            number,
            cache: KvCache::new(model.config(), 1, request.prompt.len(), device),
            request,
            num_cached: 0,
            num_begun: 0,
            logits: Vec::new(),
            experts: Vec::new(),
            logprobs: Arc::new(vec![None]),
        }
    }

    /// Begins with the first `len` positions of an earlier prompt, in place of computing them.
    pub(super) fn reuse(&mut self, earlier: &KvCache, len: usize) {
        self.cache.write_prefix(0, earlier, 0, len);
        self.num_cached = len;
    }

    /// Sequences of the request that have not begun.
    pub(super) fn num_left(&self) -> usize {
        self.request.num_sequences - self.num_begun
    }

    /// Tokens that were computed so far.
    pub(super) fn num_computed(&self) -> usize {
        self.cache.lens()[0] - self.num_cached
    }

    /// Whether the whole prompt is in the cache.
    pub(super) fn is_complete(&self) -> bool {
        self.cache.lens()[0] == self.request.prompt.len()
    }

    /// Computes the next tokens of the prompt.
    pub(super) fn advance<M: CausalLm>(&mut self, model: &M, device: &Device) {
        let start = self.cache.lens()[0];
        let end = (start + CHUNK).min(self.request.prompt.len());
        let ids = TokenBatch::padded(&[&self.request.prompt[start..end]], device);
        let HiddenStates { last, routing } = model.hidden_states(ids, Some(&mut self.cache));
        if self.request.prompt_logprobs {
            self.score(model, &last, start);
        }
        if self.is_complete() {
            let [_, len, _] = last.dims();
            self.logits = numbers(model.lm_head(last.narrow(1, len - 1, 1)));
            if self.request.routing {
                self.experts = heaviest(&routing).into_iter().map(|experts| experts[len - 1]).collect();
            }
        }
    }

    /// Log-probabilities of the tokens behind each of these positions, of which the first is `start`.
    fn score<M: CausalLm>(&mut self, model: &M, hidden: &Tensor<3>, start: usize) {
        let [_, len, _] = hidden.dims();
        let (num_top, vocab_size) = (self.request.logprobs.unwrap_or(0), model.config().vocab_size);
        let targets = &self.request.prompt[start + 1..];
        for first in (0..len.min(targets.len())).step_by(LOGIT_ROWS) {
            let rows = LOGIT_ROWS.min(len.min(targets.len()) - first);
            let logits = numbers(model.lm_head(hidden.clone().narrow(1, first, rows)));
            let scored = logits.par_chunks_exact(vocab_size).zip(&targets[first..first + rows]);
            Arc::make_mut(&mut self.logprobs)
                .par_extend(scored.map(|(logits, id)| Some(token_logprob(logits, *id, num_top))));
        }
    }
}

/// The numbers of a tensor, row-major.
pub(super) fn numbers(x: Tensor<3>) -> Vec<f32> {
    x.into_data().convert::<f32>().try_into_vec().expect("converted to this type")
}

/// The heaviest expert of each token, layer by layer.
pub(super) fn heaviest(routing: &[Routing]) -> Vec<Vec<u32>> {
    let first = |routing: &Routing| {
        let experts = routing.experts.clone().narrow(1, 0, 1).into_data();
        experts.iter::<i64>().map(|expert| expert as u32).collect()
    };
    routing.iter().map(first).collect()
}
