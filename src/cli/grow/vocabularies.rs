//! Whether the tokenizers of merged models mean the same by the same ids.

use std::cell::LazyCell;
use std::collections::HashMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::super::failure::Failure;
use super::request::Request;

/// Characters of a token that a message shows.
const MOST_CHARS: usize = 64;

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

/// Ids by token, or with `Unigram` tokens in the order of their ids.
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

    /// The first id that means one token here and another there.
    fn first_difference<'a>(&'a self, other: &'a Self) -> Option<(u32, &'a str, &'a str)> {
        let both = self.0.iter().filter_map(|(id, token)| Some((*id, token.as_str(), other.0.get(id)?.as_str())));
        both.filter(|(_, token, other)| token != other).min_by_key(|(id, ..)| *id)
    }
}

/// Compares the tokenizer of every model with that of the parent, which the result has. A model without one has nothing to
/// say.
///
/// # Errors
/// For an id that means two tokens. Anything else in which tokenizers differ is only
/// warned of: the ids that one of them lacks, how a text is cut.
pub(super) fn compare(request: &Request) -> Result<Vec<String>, Failure> {
    let Ok(expected) = request.parent().tokenizer_json() else { return Ok(Vec::new()) };
    let parent = &request.names[request.parent];
    let expected_vocabulary = LazyCell::new(|| Vocabulary::parse(&expected));
    let mut warnings = Vec::new();
    for (name, base) in request.names.iter().zip(&request.bases) {
        let Some(found) = base.tokenizer_json().ok().filter(|found| *found != expected) else { continue };
        if let (Some(found), Some(expected)) = (Vocabulary::parse(&found), &*expected_vocabulary)
            && let Some((id, found, expected)) = found.first_difference(expected)
        {
            let [found, expected] = [found, expected].map(|token| token.chars().take(MOST_CHARS).collect::<String>());
            return Err(Failure::invalid(format_args!(
                "the vocabularies of {name:?} and {parent:?} differ at id {id}: {found:?} and {expected:?}, expected one tokenizer"
            )));
        }
        warnings.push(format!("the tokenizer of {name} is not that of {parent}, though no id means two tokens"));
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
