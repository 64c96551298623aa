//! A request to a batch.

use super::{GenerateError, Sampling};

/// Sequences that continue one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Token ids.
    pub prompt: Vec<u32>,
    /// Sequences; each has random numbers of its own.
    pub num_sequences: usize,
    /// The number of the first sequence among all that are drawn with one seed: sequences of equal numbers have equal random numbers.
    pub first_sequence: usize,
    /// Tokens of each sequence at most; `None` goes on until the context is full.
    pub max_tokens: Option<usize>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tokens that end a sequence, such as those that end a text.
    pub stop_tokens: Vec<u32>,
    /// Log-probabilities of each token, and of this many of the most likely ones.
    pub logprobs: Option<usize>,
    /// Log-probabilities of the tokens of the prompt, too.
    pub prompt_logprobs: bool,
    /// The experts that each token is computed by.
    pub routing: bool,
    /// Whether keys and values of earlier prompts are reused and those of this one kept, if the batch has a
    /// [prompt cache](super::Batch::with_prompt_cache). No token depends on it.
    pub cache_prompt: bool,
}

impl Request {
    /// One greedy sequence until the context is full.
    pub fn new(prompt: Vec<u32>) -> Self {
        Self {
            prompt,
            num_sequences: 1,
            first_sequence: 0,
            max_tokens: None,
            sampling: Sampling::greedy(),
            stop_tokens: Vec::new(),
            logprobs: None,
            prompt_logprobs: false,
            routing: false,
            cache_prompt: true,
        }
    }

    /// Checks the prompt against a model with this context and vocabulary. Unless no token is asked for, there must be room for one.
    ///
    /// # Errors
    /// [`GenerateError::EmptyPrompt`], [`GenerateError::PromptTooLong`], [`GenerateError::UnknownToken`].
    pub fn check(&self, context: usize, vocab_size: usize) -> Result<(), GenerateError> {
        if self.prompt.is_empty() {
            return Err(GenerateError::EmptyPrompt);
        }
        let room = context - usize::from(self.max_tokens != Some(0)).min(context);
        if self.prompt.len() > room {
            return Err(GenerateError::PromptTooLong { found: self.prompt.len(), room, context });
        }
        match self.prompt.iter().find(|id| **id as usize >= vocab_size) {
            Some(id) => Err(GenerateError::UnknownToken { id: *id, vocab_size }),
            None => Ok(()),
        }
    }
}
