//! Log-probabilities in OpenAI's two forms.

use serde_json::{Map, Value, json};

use crate::generate::TokenText;
use crate::tokenizer::Tokenizer;

/// Stands for the log-probability of an impossible token, as JSON has no infinity.
const IMPOSSIBLE: f64 = -9999.0;

/// A token as text, with the space that it begins with. A token that is a part of a character, or a special one, as the
/// vocabulary spells it.
pub fn token_name(tokenizer: &Tokenizer, id: u32) -> String {
    let raw = tokenizer.id_to_token(id).unwrap_or_default();
    if raw.starts_with('▁') {
        return raw.replace('▁', " ");
    }
    match tokenizer.decode_text(&[id]) {
        Ok(text) if !text.is_empty() && !text.contains(char::REPLACEMENT_CHARACTER) => text,
        _ => raw,
    }
}

/// `logprobs` of a choice of `/v1/completions`: parallel lists, of the tokens of the prompt with `echo` and of the output.
/// `offset` is the number of characters of the prompt in the text.
pub fn completion_logprobs(tokenizer: &Tokenizer, prompt: &[TokenText], tokens: &[TokenText], offset: usize) -> Value {
    let (mut names, mut logprobs, mut tops, mut offsets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let prompt = prompt.iter().map(|token| (&token.token, token.offset));
    for (token, place) in prompt.chain(tokens.iter().map(|token| (&token.token, offset + token.offset))) {
        let logprob = &token.logprob;
        names.push(token_name(tokenizer, token.id));
        offsets.push(place);
        logprobs.push(logprob.as_ref().map(|logprob| finite(logprob.logprob)));
        tops.push(logprob.as_ref().map(|logprob| {
            let top = logprob.top.iter().map(|(id, logprob)| (token_name(tokenizer, *id), json!(finite(*logprob))));
            top.collect::<Map<_, _>>()
        }));
    }
    json!({"tokens": names, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets})
}

/// `logprobs` of a choice of `/v1/chat/completions`.
pub fn chat_logprobs(tokenizer: &Tokenizer, tokens: &[TokenText]) -> Value {
    let entry = |id: u32, logprob: f64| {
        let name = token_name(tokenizer, id);
        json!({"token": name, "logprob": finite(logprob), "bytes": name.as_bytes()})
    };
    let content = tokens.iter().filter_map(|token| {
        let logprob = token.token.logprob.as_ref()?;
        let mut content = entry(token.token.id, logprob.logprob);
        content["top_logprobs"] = logprob.top.iter().map(|(id, logprob)| entry(*id, *logprob)).collect();
        Some(content)
    });
    json!({"content": content.collect::<Vec<_>>()})
}

fn finite(logprob: f64) -> f64 {
    logprob.max(IMPOSSIBLE)
}
