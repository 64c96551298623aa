//! Text of tokens as they come.

use crate::tokenizer::{Tokenizer, TokenizerError};

/// Tokens without a whole character after which their text is given anyway: their bytes are no UTF-8.
const MAX_HELD: usize = 8;
/// Last tokens that may still become a character: one has at most 4 bytes, each of which can be a token.
const INCOMPLETE: usize = 3;
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

    /// The text that a token adds; empty while a character is not complete. Bytes that are no UTF-8 give U+FFFD: in a byte-level
    /// vocabulary as in the text of all tokens together, with byte fallback one for each byte behind the last whole character.
    ///
    /// # Errors
    /// [`TokenizerError::Decode`].
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String, TokenizerError> {
        self.ids.push(id);
        let text = self.text(tokenizer, self.ids.len())?;
        let is_open = text.ends_with(char::REPLACEMENT_CHARACTER) && !self.ends_with_whole_bytes(tokenizer);
        if !text.is_empty() && !is_open {
            self.give(self.ids.len());
            return Ok(text);
        }
        if self.ids.len() - self.num_given < MAX_HELD {
            return Ok(String::new());
        }
        let end = self.ids.len() - INCOMPLETE;
        let mut certain = self.text(tokenizer, end)?;
        certain.truncate(common_len(&certain, &text));
        self.give(end);
        Ok(certain)
    }

    /// The text that is held back: characters that will not be completed.
    ///
    /// # Errors
    /// [`TokenizerError::Decode`].
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String, TokenizerError> {
        let text = self.text(tokenizer, self.ids.len())?;
        self.give(self.ids.len());
        Ok(text)
    }

    /// Text of the held tokens before `end`.
    fn text(&self, tokenizer: &Tokenizer, end: usize) -> Result<String, TokenizerError> {
        // Bytes that follow a whole character of bytes are decoded apart: byte fallback makes of a run of bytes that is no UTF-8 as
        // many U+FFFD as it has bytes, the character too.
        if let (Some(last), Some(next)) = (self.ids[..self.num_given].last(), self.ids[..end].get(self.num_given))
            && byte_token(tokenizer, *last).is_some()
            && byte_token(tokenizer, *next).is_some()
        {
            return tokenizer.decode_text(&self.ids[self.num_given..end]);
        }
        let given = tokenizer.decode_text(&self.ids[..self.num_given])?;
        let text = tokenizer.decode_text(&self.ids[..end])?;
        // The given tokens may end within a character, which the next ones complete: then the two texts differ there.
        Ok(text[common_len(&given, &text)..].to_owned())
    }

    /// Whether the held tokens end with byte tokens that form valid UTF-8: a U+FFFD at the end is then the character itself, not an
    /// incomplete one.
    fn ends_with_whole_bytes(&self, tokenizer: &Tokenizer) -> bool {
        let held = self.ids[self.num_given..].iter().rev();
        let mut bytes: Vec<u8> = held.map_while(|id| byte_token(tokenizer, *id)).collect();
        bytes.reverse();
        !bytes.is_empty() && std::str::from_utf8(&bytes).is_ok()
    }

    /// Marks the tokens before `end` as given, and forgets those that were given before.
    fn give(&mut self, end: usize) {
        if end > self.num_given {
            self.ids.drain(..self.num_given);
            self.num_given = end - self.num_given;
        }
    }
}

/// The byte of a token such as `<0xF0>`.
fn byte_token(tokenizer: &Tokenizer, id: u32) -> Option<u8> {
    let token = tokenizer.id_to_token(id)?;
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// Bytes of the characters with which both texts begin.
fn common_len(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(char, _)| char.len_utf8()).sum()
}

#[cfg(test)]
mod tests {

    use proptest::prelude::*;

    use super::*;
    use crate::tokenizer::fixture::{byte_fallback, byte_level};

    fn parts(tokenizer: &Tokenizer, prompt: &[u32], ids: &[u32]) -> Vec<String> {
        let mut detokenizer = Detokenizer::after(prompt);
        let mut parts: Vec<String> = ids.iter().map(|id| detokenizer.push(tokenizer, *id).unwrap()).collect();
        parts.push(detokenizer.finish(tokenizer).unwrap());
        parts
    }

    #[test]
    fn a_character_comes_whole_also_if_it_begins_in_the_prompt() {
        let tokenizer = byte_level();
        let ids = tokenizer.encode("a\u{4f60}b").unwrap();
        assert_eq!(ids.len(), 5, "a token each byte");
        assert_eq!(parts(&tokenizer, &[], &ids), ["a", "", "", "\u{4f60}", "b", ""]);
        assert_eq!(parts(&tokenizer, &ids[..2], &ids[2..]), ["", "\u{4f60}", "b", ""]);
        assert_eq!(parts(&tokenizer, &[], &ids[..3]).concat(), "a\u{fffd}");
    }

    #[test]
    fn bytes_behind_a_whole_character_leave_it_whole() {
        let tokenizer = byte_fallback();
        let crab = "\u{1f980}".bytes().chain("\u{1f980}".bytes().take(2));
        let ids: Vec<u32> = crab.map(|byte| tokenizer.token_to_id(&format!("<0x{byte:02X}>")).unwrap()).collect();
        assert_eq!(parts(&tokenizer, &[], &ids).concat(), "\u{1f980}\u{fffd}\u{fffd}");
        assert_eq!(parts(&tokenizer, &ids[..4], &ids[..4]).concat(), "\u{1f980}");
    }

    #[test]
    fn replacement_characters_of_a_text_are_whole_characters() {
        let tokenizer = byte_fallback();
        let text = "\u{fffd}\u{fffd}\u{1f980}";
        let ids = tokenizer.encode(text).unwrap();
        let parts = parts(&tokenizer, &[], &ids);
        assert_eq!(parts.concat(), text);
        assert_eq!(parts.iter().filter(|part| !part.is_empty()).count(), 3, "{parts:?}");
    }

    proptest! {
        #[test]
        fn parts_of_a_text_are_the_text_with_byte_fallback(
            text in prop_oneof![any::<String>(), "[a \u{fffd}\u{e9}\u{4f60}\u{1f980}]{0,12}"],
        ) {
            let tokenizer = byte_fallback();
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(parts(&tokenizer, &[], &ids).concat(), tokenizer.decode_text(&ids).unwrap());
        }

        #[test]
        fn parts_together_are_the_text_of_all_tokens(ids in prop::collection::vec(3u32..259, 0..60)) {
            let tokenizer = byte_level();
            prop_assert_eq!(parts(&tokenizer, &[], &ids).concat(), tokenizer.decode_text(&ids).unwrap());
        }

        #[test]
        fn bytes_of_no_character_are_told_once(ids in prop::collection::vec(190u32..259, 0..60)) {
            let tokenizer = byte_level();
            prop_assert_eq!(parts(&tokenizer, &[], &ids).concat(), tokenizer.decode_text(&ids).unwrap());
        }
    }
}
