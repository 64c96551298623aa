//! A prompt as text before its continuations.

use crate::generate::{Chosen, Detokenizer, TokenLogprob, TokenText};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// The text of a prompt, for answers that repeat it.
#[derive(Debug)]
pub(super) struct Echo {
    pub(super) text: String,
    /// Characters of the text.
    pub(super) num_chars: usize,
    /// Without log-probabilities.
    tokens: Vec<TokenText>,
}

impl Echo {
    /// The text of a prompt as it was given, with its ids and the byte at which each begins.
    ///
    /// # Panics
    /// If one begins before the one in front of it, or within a character.
    pub(super) fn of_text(text: &str, ids: &[u32], starts: &[usize]) -> Self {
        let mut offset = 0;
        let ends = starts.iter().copied().skip(1).chain([text.len()]);
        let token = |((id, start), end): ((&u32, &usize), usize)| {
            let token = Chosen { id: *id, logprob: None, experts: Vec::new() };
            let token = TokenText { text: text[*start..end].to_owned(), offset, token };
            offset += token.text.chars().count();
            token
        };
        let tokens: Vec<_> = ids.iter().zip(starts).zip(ends).map(token).collect();
        Self { num_chars: text.chars().count(), text: text.to_owned(), tokens }
    }

    /// Decodes a prompt that was given as ids.
    ///
    /// # Errors
    /// [`TokenizerError::Decode`].
    pub(super) fn new(tokenizer: &Tokenizer, prompt: &[u32]) -> Result<Self, TokenizerError> {
        let (mut detokenizer, mut offset) = (Detokenizer::default(), 0);
        let token = |id: &u32| {
            let token = Chosen { id: *id, logprob: None, experts: Vec::new() };
            let token = TokenText { text: detokenizer.push(tokenizer, *id)?, offset, token };
            offset += token.text.chars().count();
            Ok(token)
        };
        let mut tokens = prompt.iter().map(token).collect::<Result<Vec<_>, TokenizerError>>()?;
        if let Some(last) = tokens.last_mut() {
            last.text += &detokenizer.finish(tokenizer)?;
        }
        let text: String = tokens.iter().map(|token| token.text.as_str()).collect();
        Ok(Self { num_chars: text.chars().count(), text, tokens })
    }

    /// The tokens of the prompt with their log-probabilities.
    pub(super) fn tokens(&self, logprobs: &[Option<TokenLogprob>]) -> Vec<TokenText> {
        let mut tokens = self.tokens.clone();
        for (token, logprob) in tokens.iter_mut().zip(logprobs) {
            token.token.logprob.clone_from(logprob);
        }
        tokens
    }
}
