//! A running sequence.

use super::{Chosen, FinishReason, GenerateError, Request, Sampler, SequenceId, token_logprob};

/// A sequence whose tokens are chosen one after another.
#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) id: SequenceId,
    sampler: Sampler,
    stop_tokens: Vec<u32>,
    logprobs: Option<usize>,
    pub(super) routing: bool,
    num_prompt: usize,
    num_output: usize,
    /// Tokens of the output at most.
    max_output: usize,
    is_bounded_by_context: bool,
    /// The last token, which the next pass computes.
    pub(super) last: u32,
}

impl Sequence {
    pub(super) fn new(request: &Request, id: SequenceId, context: usize) -> Self {
        let num_prompt = request.prompt.len();
        let room = context - num_prompt;
        Self {
            id,
            sampler: Sampler::new(request.sampling, &request.prompt, request.first_sequence + id.index),
            stop_tokens: request.stop_tokens.clone(),
            logprobs: request.logprobs,
            routing: request.routing,
            num_prompt,
            num_output: 0,
            max_output: request.max_tokens.map_or(room, |most| most.min(room)),
            is_bounded_by_context: request.max_tokens.is_none_or(|most| most > room),
            last: *request.prompt.last().expect("a checked prompt has tokens"),
        }
    }

    /// Tokens of the prompt and the output together, at most. The cache needs fewer positions: the last token is not
    /// computed.
    pub(super) fn max_len(&self) -> usize {
        self.num_prompt + self.max_output
    }

    /// Chooses the next token by its logits.
    ///
    /// # Errors
    /// [`GenerateError::NotFinite`].
    pub(super) fn choose(&mut self, logits: &[f32], experts: Vec<u32>) -> Result<Chosen, GenerateError> {
        let id = self.sampler.choose(logits).ok_or(GenerateError::NotFinite { position: self.num_output })?;
        (self.last, self.num_output) = (id, self.num_output + 1);
        Ok(Chosen { id, logprob: self.logprobs.map(|num_top| token_logprob(logits, id, num_top)), experts })
    }

    /// Why there is no next token, if there is none.
    pub(super) fn finish(&self) -> Option<FinishReason> {
        if self.num_output > 0 && self.stop_tokens.contains(&self.last) {
            return Some(FinishReason::StopToken(self.last));
        }
        let bound = if self.is_bounded_by_context { FinishReason::ContextFull } else { FinishReason::MaxTokens };
        (self.num_output == self.max_output).then_some(bound)
    }
}
