//! Token ids of a prompt.

use std::ops::Range;

use crate::tokenizer::{Tokenizer, TokenizerError};

/// The ids of a text that a model is to continue: with those that its tokenizer puts around one, and at least the one that
/// begins a text, if there is one. A text that begins with that token by itself does not get it twice.
///
/// # Errors
/// [`TokenizerError::UnknownWord`] or [`TokenizerError::Encode`].
pub fn prompt_ids(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, TokenizerError> {
    Ok(begun_once(tokenizer.encode_with_special_tokens(text)?, tokenizer.bos()))
}

/// The ids of [`prompt_ids`], and the byte of the text at which each begins: the first at 0, each later one where the one
/// before it ends. A token that is a part of a character begins where the character does, and text that the tokenizer drops is
/// part of the token behind it.
///
/// # Errors
/// Those of [`prompt_ids`].
pub fn prompt_ids_with_starts(tokenizer: &Tokenizer, text: &str) -> Result<(Vec<u32>, Vec<usize>), TokenizerError> {
    let (encoded, ranges) = tokenizer.encode_with_special_tokens_and_ranges(text)?;
    let num_encoded = encoded.len();
    let ids = begun_once(encoded, tokenizer.bos());
    let mut starts = starts(text, &ranges);
    // The text of a removed duplicate goes to the next token; a token that is added to an empty text has none.
    starts.drain(..num_encoded.saturating_sub(ids.len()));
    starts.resize(ids.len(), 0);
    if let Some(first) = starts.first_mut() {
        *first = 0;
    }
    Ok((ids, starts))
}

/// The ids with the token that begins a text once, if there is one.
fn begun_once(mut ids: Vec<u32>, bos: Option<u32>) -> Vec<u32> {
    if let Some(bos) = bos {
        if ids.is_empty() {
            ids.push(bos);
        } else if ids.starts_with(&[bos, bos]) {
            ids.remove(0);
        }
    }
    ids
}

/// Where tokens of these ranges begin, so that nothing of the text is between them.
fn starts(text: &str, ranges: &[Range<usize>]) -> Vec<usize> {
    let (mut start, mut end) = (0, 0);
    let place = |range: &Range<usize>| {
        let place = range.start.min(end).max(start);
        // The text is cut here, and the ranges are those of a library.
        start = (0..=place).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        end = range.end.max(end);
        start
    };
    ranges.iter().map(place).collect()
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::tokenizer::fixture::{byte_fallback, byte_level};

    #[test]
    fn an_empty_prompt_is_the_token_that_begins_a_text() {
        let tokenizer = Tokenizer::word_level(&["<bos>", "red"].map(String::from));
        assert_eq!(prompt_ids(&tokenizer, "").unwrap(), [0]);
        assert_eq!(prompt_ids(&tokenizer, "red").unwrap(), [1]);
        assert_eq!(prompt_ids(&tokenizer, "<bos> <bos> red").unwrap(), [0, 1]);
    }

    #[test]
    fn tokens_of_a_prompt_begin_where_the_ones_before_them_end() {
        let tokenizer = Tokenizer::word_level(&["<bos>", "red"].map(String::from));
        let starts = |text: &str| prompt_ids_with_starts(&tokenizer, text).unwrap();
        assert_eq!(starts(""), (vec![0], vec![0]));
        assert_eq!(starts("  red   red "), (vec![1, 1], vec![0, 5]));
        assert_eq!(starts("<bos> <bos> red"), (vec![0, 1], vec![0, 11]));
    }

    #[test]
    fn tokens_of_a_character_begin_where_it_does() {
        let tokenizer = byte_level();
        let (ids, starts) = prompt_ids_with_starts(&tokenizer, " <|im_start|>a\u{4f60}b ").unwrap();
        assert_eq!(ids, prompt_ids(&tokenizer, " <|im_start|>a\u{4f60}b ").unwrap());
        assert_eq!(starts, [0, 1, 13, 14, 14, 14, 17, 18]);
    }

    #[test]
    fn a_token_that_begins_a_text_has_no_text() {
        let tokenizer = byte_fallback();
        for text in ["", "a b", " a  b ", "<s> a", "a\u{4f60}\u{1f980}b", "<s>"] {
            let (ids, starts) = prompt_ids_with_starts(&tokenizer, text).unwrap();
            assert_eq!(ids, prompt_ids(&tokenizer, text).unwrap(), "{text:?}");
            assert_eq!((ids[0], starts[0], starts.len()), (tokenizer.bos().unwrap(), 0, ids.len()), "{text:?}");
            assert!(starts.is_sorted() && starts.iter().all(|start| text.is_char_boundary(*start)), "{text:?}");
        }
        assert_eq!(prompt_ids_with_starts(&tokenizer, "a b").unwrap().1[1], 0);
    }
}
