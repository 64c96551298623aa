//! Token ids of a prompt.

use crate::tokenizer::{Tokenizer, TokenizerError};

/// The ids of a text that a model is to continue: with those that its tokenizer puts around one, and at least the one that
/// begins a text, if there is one. A text that begins with that token by itself does not get it twice.
///
/// # Errors
/// [`TokenizerError::UnknownWord`] or [`TokenizerError::Encode`].
pub fn prompt_ids(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, TokenizerError> {
    let mut ids = tokenizer.encode_with_special_tokens(text)?;
    if let Some(bos) = tokenizer.bos() {
        if ids.is_empty() {
            ids.push(bos);
        } else if ids.starts_with(&[bos, bos]) {
            ids.remove(0);
        }
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_prompt_is_the_token_that_begins_a_text() {
        let tokenizer = Tokenizer::word_level(&["<bos>", "red"].map(String::from));
        assert_eq!(prompt_ids(&tokenizer, "").unwrap(), [0]);
        assert_eq!(prompt_ids(&tokenizer, "red").unwrap(), [1]);
        assert_eq!(prompt_ids(&tokenizer, "<bos> <bos> red").unwrap(), [0, 1]);
    }
}
