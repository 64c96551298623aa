//! Tokens and events of sequences.

use super::{FinishReason, GenerateError, PromptLogprobs, TokenLogprob};

/// A sequence of a [`Request`](super::Request).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId {
    /// The number of the request, in the order in which requests were made.
    pub request: u64,
    /// The index of the sequence in its request.
    pub index: usize,
}

/// A chosen token.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// Its id.
    pub id: u32,
    /// Its log-probability, if requested.
    pub logprob: Option<TokenLogprob>,
    /// The heaviest expert of each layer, first layer first, at the position that predicted the token, if asked for.
    pub experts: Vec<u32>,
}

/// A prompt that sequences continue.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ComputedPrompt {
    /// Tokens that were not computed: their keys and values are those of an earlier prompt.
    pub num_cached: usize,
    /// Tokens that were computed: 0 if neither new tokens nor log-probabilities of the prompt were requested.
    pub num_computed: usize,
    /// Log-probabilities of its tokens, if requested.
    pub logprobs: Option<PromptLogprobs>,
}

/// An event of a sequence.
#[derive(Debug)]
pub enum Event {
    /// The sequence begins. Told before any token, for each sequence.
    Prompt(ComputedPrompt),
    /// The next token, including a stop token.
    Token(Chosen),
    /// There are no more tokens.
    Finished(FinishReason),
    /// The sequence cannot go on.
    Failed(GenerateError),
}
