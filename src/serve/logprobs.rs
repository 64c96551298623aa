//! Log-probabilities in OpenAI's two forms.

use serde_json::{Map, Value, json};

use crate::generate::TokenText;
use crate::tokenizer::Tokenizer;

/// Stands for the log-probability of an impossible token, as JSON has no infinity.
const IMPOSSIBLE: f64 = -9999.0;

/// A token of these bytes as text, with the space that it begins with; a special one as the vocabulary spells it, and a
/// part of a character as OpenAI writes it: `bytes:\xf0\x9f`.
fn token_name(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |name, byte| format!("{name}\\x{byte:02x}")),
    }
}

/// The bytes of the text of a token.
fn token_bytes(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let raw = tokenizer.id_to_token(id).unwrap_or_default();
    if raw.starts_with('▁') {
        return raw.replace('▁', " ").into_bytes();
    }
    match tokenizer.decode_text(&[id]) {
        Ok(text) if !text.is_empty() && !text.contains(char::REPLACEMENT_CHARACTER) => return text.into_bytes(),
        _ => {}
    }
    let byte = raw.strip_prefix("<0x").and_then(|rest| u8::from_str_radix(rest.strip_suffix('>')?, 16).ok());
    let bytes = || raw.chars().map(byte_of).collect::<Option<Vec<u8>>>();
    byte.map(|byte| vec![byte]).or_else(bytes).unwrap_or_else(|| raw.clone().into_bytes())
}

/// The byte that a character stands for in a byte-level vocabulary: printable ones stand for themselves, and others have the
/// characters from U+0100 on, in their order (Radford et al., 2019, GPT-2's `bytes_to_unicode`).
fn byte_of(char: char) -> Option<u8> {
    match u32::from(char) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => u8::try_from(code).ok(),
        code @ 0x100..=0x143 => match u8::try_from(code - 0x100).ok()? {
            place @ 0..=0x20 => Some(place),
            place @ 0x21..=0x42 => Some(0x7f + (place - 0x21)),
            _ => Some(0xad),
        },
        _ => None,
    }
}

/// `logprobs` of a choice of `/v1/completions`: parallel lists, of the tokens of the prompt with `echo` and of the output.
/// `offset` is the number of characters of the prompt in the text.
pub fn completion_logprobs(tokenizer: &Tokenizer, prompt: &[TokenText], tokens: &[TokenText], offset: usize) -> Value {
    let (mut names, mut logprobs, mut tops, mut offsets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let prompt = prompt.iter().map(|token| (&token.token, token.offset));
    for (token, place) in prompt.chain(tokens.iter().map(|token| (&token.token, offset + token.offset))) {
        let logprob = &token.logprob;
        names.push(token_name(&token_bytes(tokenizer, token.id)));
        offsets.push(place);
        logprobs.push(logprob.as_ref().map(|logprob| finite(logprob.logprob)));
        tops.push(logprob.as_ref().map(|logprob| {
            let mut top = Map::new();
            for (id, logprob) in &logprob.top {
                // Of tokens with one name, the likelier one.
                top.entry(token_name(&token_bytes(tokenizer, *id))).or_insert(json!(finite(*logprob)));
            }
            top
        }));
    }
    json!({"tokens": names, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets})
}

/// `logprobs` of a choice of `/v1/chat/completions`.
pub fn chat_logprobs(tokenizer: &Tokenizer, tokens: &[TokenText]) -> Value {
    let entry = |id: u32, logprob: f64| {
        let bytes = token_bytes(tokenizer, id);
        json!({"token": token_name(&bytes), "logprob": finite(logprob), "bytes": bytes})
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

#[cfg(test)]
mod tests {

    use super::*;
    use crate::tokenizer::fixture::byte_level;

    #[test]
    fn a_part_of_a_character_has_its_bytes() {
        let tokenizer = byte_level();
        let ids = tokenizer.encode("\u{4f60}a").unwrap();
        let bytes: Vec<Vec<u8>> = ids.iter().map(|id| token_bytes(&tokenizer, *id)).collect();
        let names: Vec<String> = bytes.iter().map(|bytes| token_name(bytes)).collect();
        assert_eq!((&bytes[0], names[0].as_str()), (&vec![0xe4], "bytes:\\xe4"));
        assert_eq!((&bytes[1], names[1].as_str()), (&vec![0xbd], "bytes:\\xbd"));
        assert_eq!(bytes.concat(), "\u{4f60}a".as_bytes());
    }

    #[test]
    fn every_byte_has_one_character() {
        let mut bytes: Vec<u8> = (0..0x200).filter_map(char::from_u32).filter_map(byte_of).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
    }
}
