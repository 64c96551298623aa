//! Whether the tokenizers of merged models give the same ids to the same tokens.

use std::cell::LazyCell;
use std::collections::HashMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Sources, UpscaleError};
use crate::weights::WeightSource;

/// Characters of a token in a message.
const MAX_CHARS: usize = 64;

/// Tokens by id, of a `tokenizer.json`.
struct Vocabulary(HashMap<u32, String>);

#[derive(Deserialize)]
struct Form {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct Model {
    vocab: Tokens,
}

/// Ids by token, or for `Unigram` tokens in the order of their ids.
#[derive(Deserialize)]
#[serde(untagged)]
enum Tokens {
    ById(Vec<(String, IgnoredAny)>),
    ByToken(HashMap<String, u32>),
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

impl Vocabulary {
    /// Reads the text of a `tokenizer.json`; `None` if it is none.
    fn parse(text: &[u8]) -> Option<Self> {
        let form: Form = serde_json::from_slice(text).ok()?;
        let mut tokens: HashMap<u32, String> = match form.model.vocab {
            Tokens::ById(tokens) => (0..).zip(tokens.into_iter().map(|(token, _)| token)).collect(),
            Tokens::ByToken(ids) => ids.into_iter().map(|(token, id)| (id, token)).collect(),
        };
        tokens.extend(form.added_tokens.into_iter().map(|token| (token.id, token.content)));
        Some(Self(tokens))
    }

    /// The first id with two different tokens.
    fn first_difference<'a>(&'a self, other: &'a Self) -> Option<(u32, &'a str, &'a str)> {
        let both = self.0.iter().filter_map(|(id, token)| Some((*id, token.as_str(), other.0.get(id)?.as_str())));
        both.filter(|(_, token, other)| token != other).min_by_key(|(id, ..)| *id)
    }
}

/// Compares the tokenizer of every model with that of the result, and returns warnings. Models without one are skipped.
///
/// # Errors
/// [`UpscaleError::DifferentTokens`] for an id with two tokens, [`UpscaleError::IdBeyondVocabulary`] for a tokenizer of
/// another model with more ids than the embeddings have rows. Other differences are warnings: ids that one tokenizer
/// lacks, and how a text is split.
pub(super) fn compare(sources: &Sources) -> Result<Vec<String>, UpscaleError> {
    let Ok(expected) = sources.tokenizer().tokenizer_json() else { return Ok(Vec::new()) };
    let tokenizer = sources.tokenizer_name();
    let expected_vocabulary = LazyCell::new(|| Vocabulary::parse(&expected));
    let mut warnings = Vec::new();
    for (name, base) in sources.names.iter().zip(&sources.bases) {
        let Some(found) = base.tokenizer_json().ok().filter(|found| *found != expected) else { continue };
        if let (Some(found), Some(expected)) = (Vocabulary::parse(&found), &*expected_vocabulary) {
            if let Some((id, found, expected)) = found.first_difference(expected) {
                let [found, expected] = [found, expected].map(|token| token.chars().take(MAX_CHARS).collect());
                let (first, other) = (name.clone(), tokenizer);
                return Err(UpscaleError::DifferentTokens { first, other, id, found, expected });
            }
            let vocab_size = base.config().vocab_size;
            if let Some(id) = expected.0.keys().copied().filter(|&id| id as usize >= vocab_size).min() {
                return Err(UpscaleError::IdBeyondVocabulary { id, vocab_size });
            }
        }
        warnings.push(format!("the tokenizer of {name} is not that of {tokenizer}, though no id means two tokens"));
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vocabulary {
        Vocabulary::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn tokens_are_found_by_id_in_each_form_of_the_file() {
        let by_token =
            parsed(r#"{"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 2, "content": "</s>"}]}"#);
        let by_id = parsed(r#"{"model": {"vocab": [["a", -1.5], ["c", -2.0]]}, "added_tokens": []}"#);
        assert_eq!(by_token.first_difference(&by_id), Some((1, "b", "c")));
        assert_eq!(by_token.first_difference(&by_token), None);
        let shorter = parsed(r#"{"model": {"vocab": {"a": 0}}}"#);
        assert_eq!(by_token.first_difference(&shorter), None, "an id that one lacks has not two meanings");
        let renamed = parsed(r#"{"model": {"vocab": {"x": 0, "b": 1}}, "added_tokens": [{"id": 0, "content": "a"}]}"#);
        assert_eq!(by_token.first_difference(&renamed), None, "an added token is what its id means");
        assert!(Vocabulary::parse(b"{}").is_none());
    }
}
