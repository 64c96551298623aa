//! The text of a sequence, as it grows and whole.

use std::collections::VecDeque;

use super::{Chosen, Detokenizer, FinishReason, StopStrings};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// A sequence that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Without the prompt, special tokens and the stop string.
    pub text: String,
    /// The tokens of the text, and the stop token.
    pub tokens: Vec<TokenText>,
    /// Why it has ended.
    pub finish: FinishReason,
}

/// The next part of a text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Delta {
    /// Whole characters that are in no stop string.
    pub text: String,
    /// The tokens that begin in the text.
    pub tokens: Vec<TokenText>,
}

/// A token and the text that it adds: empty if it does not complete a character.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenText {
    /// The text.
    pub text: String,
    /// Characters of the whole text before the token.
    pub offset: usize,
    /// The token.
    pub token: Chosen,
}

/// A text on its way from tokens to the reader.
#[derive(Debug)]
pub(super) struct PartialText {
    detokenizer: Detokenizer,
    stop: StopStrings,
    /// Tokens that begin in text that is held back, each with its place.
    tokens: VecDeque<(usize, TokenText)>,
    /// Bytes and characters of the text that is decoded, and bytes of that which is certain.
    num_decoded: usize,
    num_chars: usize,
    num_certain: usize,
}

impl PartialText {
    pub(super) fn new(prompt: &[u32], stop: StopStrings) -> Self {
        let detokenizer = Detokenizer::after(prompt);
        Self { detokenizer, stop, tokens: VecDeque::new(), num_decoded: 0, num_chars: 0, num_certain: 0 }
    }

    /// The text that becomes certain by a token, and whether a stop string was found.
    ///
    /// # Errors
    /// [`TokenizerError::Decode`].
    pub(super) fn push(&mut self, tokenizer: &Tokenizer, token: Chosen) -> Result<(Delta, bool), TokenizerError> {
        let text = self.detokenizer.push(tokenizer, token.id)?;
        let (place, offset) = (self.num_decoded, self.num_chars);
        self.num_decoded += text.len();
        self.num_chars += text.chars().count();
        let (certain, is_stopped) = self.stop.push(&text);
        self.tokens.push_back((place, TokenText { text, offset, token }));
        Ok((self.take(certain), is_stopped))
    }

    /// The text that was held back, of a sequence that has ended, and whether a stop string was found in it: a token can be
    /// text and the beginning of a character. A stop token adds no text.
    ///
    /// # Errors
    /// [`TokenizerError::Decode`].
    pub(super) fn finish(
        &mut self,
        tokenizer: &Tokenizer,
        stop_token: Option<Chosen>,
    ) -> Result<(Delta, bool), TokenizerError> {
        let rest = self.detokenizer.finish(tokenizer)?;
        if let Some((_, last)) = self.tokens.back_mut() {
            last.text += &rest;
        }
        let (mut text, is_stopped) = self.stop.push(&rest);
        if !is_stopped {
            text += &self.stop.finish();
        }
        let mut delta = self.take(text);
        if !is_stopped {
            delta.tokens.extend(self.tokens.drain(..).map(|(_, token)| token));
            let offset = self.num_chars + rest.chars().count();
            delta.tokens.extend(stop_token.map(|token| TokenText { text: String::new(), offset, token }));
        }
        Ok((delta, is_stopped))
    }

    /// Takes the tokens that begin in text that is certain now.
    fn take(&mut self, text: String) -> Delta {
        self.num_certain += text.len();
        let count = self.tokens.partition_point(|(place, _)| *place < self.num_certain);
        Delta { text, tokens: self.tokens.drain(..count).map(|(_, token)| token).collect() }
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::tokenizer::fixture::byte_level;

    #[test]
    fn a_stop_string_in_the_held_text_is_found_at_the_end() {
        let tokenizer = byte_level();
        // The first of three bytes: a character that stays incomplete.
        let id = tokenizer.encode("\u{4f60}").unwrap()[0];
        for (stop, text) in [("b", "\u{fffd}"), ("\u{fffd}", "")] {
            let mut partial = PartialText::new(&[], StopStrings::new([stop.to_owned()]));
            let token = Chosen { id, logprob: None, experts: Vec::new() };
            assert_eq!(partial.push(&tokenizer, token).unwrap(), (Delta::default(), false));
            let (delta, is_stopped) = partial.finish(&tokenizer, None).unwrap();
            assert_eq!((delta.text.as_str(), is_stopped), (text, text.is_empty()));
        }
    }
}
