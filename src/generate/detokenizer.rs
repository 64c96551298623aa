//! Text of tokens as they come.

use crate::tokenizer::{Tokenizer, TokenizerError};

/// Tokens without a whole character after which their text is given anyway: their bytes are no UTF-8. A character has at most
/// 4 bytes, each of which can be a token.
const MAX_HELD: usize = 8;
/// Tokens of the prompt that the first ones of the output are decoded behind: a tokenizer may give a token another text at
/// the beginning.
const CONTEXT: usize = 6;

/// Decodes a sequence token by token, and gives only whole characters.
#[derive(Debug, Clone, Default)]
pub struct Detokenizer {
    /// Tokens whose text is given already, then tokens whose text is held back.
    ids: Vec<u32>,
    num_given: usize,
}

impl Detokenizer {
    /// For the tokens behind a prompt.
    pub fn after(prompt: &[u32]) -> Self {
        let ids = prompt[prompt.len().saturating_sub(CONTEXT)..].to_vec();
        Self { num_given: ids.len(), ids }
    }

    /// The text that a token adds; empty while a character is not complete.
    ///
    /// # Errors
    /// [`TokenizerError::Decode`].
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String, TokenizerError> {
        self.ids.push(id);
        let text = self.held(tokenizer)?;
        let num_held = self.ids.len() - self.num_given;
        if text.is_empty() || (text.ends_with(char::REPLACEMENT_CHARACTER) && num_held < MAX_HELD) {
            return Ok(String::new());
        }
        self.ids.drain(..self.num_given);
        self.num_given = self.ids.len();
        Ok(text)
    }

    /// The text that is held back: characters that will not be completed.
    ///
    /// # Errors
    /// [`TokenizerError::Decode`].
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String, TokenizerError> {
        let text = self.held(tokenizer)?;
        self.num_given = self.ids.len();
        Ok(text)
    }

    fn held(&self, tokenizer: &Tokenizer) -> Result<String, TokenizerError> {
        let given = tokenizer.decode_text(&self.ids[..self.num_given])?;
        let mut text = tokenizer.decode_text(&self.ids)?;
        // A prompt of token ids can end within a character, which the output completes.
        let given = given.trim_end_matches(char::REPLACEMENT_CHARACTER);
        if text.starts_with(given) {
            text.drain(..given.len());
        }
        Ok(text)
    }
}
