//! The keys `tokenizer.*` of a GGUF file as its vocabulary.

use super::failure::Failure;
use super::metadata::Metadata;
use super::{GgufFault, GgufVocabulary, TokenType};

/// The vocabulary, if the file has one. Of its rules, only the types of the keys are checked.
///
/// A special-token id that names no token (−1, or one beyond the vocabulary) means that there is no such token.
pub(super) fn read(keys: &Metadata<'_>) -> Result<Option<GgufVocabulary>, Failure> {
    let Some(model) = keys.text("tokenizer.ggml.model")?.filter(|model| model != "none" && model != "no_vocab") else {
        return Ok(None);
    };
    let token_type = |number: i32| {
        TokenType::from_number(number).ok_or_else(|| {
            let (key, expected) = ("tokenizer.ggml.token_type".to_owned(), "1 to 6".to_owned());
            GgufFault::Unsupported { key, found: number.to_string(), expected }.into()
        })
    };
    let numbers = keys.integers("tokenizer.ggml.token_type")?;
    let tokens = keys.texts("tokenizer.ggml.tokens")?;
    let mut ignored_ids = Vec::new();
    let mut special = |key: &'static str| -> Result<Option<u32>, Failure> {
        let found = keys.id(key)?;
        let id = found.and_then(|id| u32::try_from(id).ok()).filter(|id| (*id as usize) < tokens.len());
        ignored_ids.extend(found.filter(|_| id.is_none()).map(|found| (key, found)));
        Ok(id)
    };
    let bos = special("tokenizer.ggml.bos_token_id")?;
    let eos = special("tokenizer.ggml.eos_token_id")?;
    let eot = special("tokenizer.ggml.eot_token_id")?;
    let eom = special("tokenizer.ggml.eom_token_id")?;
    let unk = special("tokenizer.ggml.unknown_token_id")?;
    let pad = special("tokenizer.ggml.padding_token_id")?;
    // A text cannot begin or end with a token that was ignored.
    let is_ignored = |key: &str| ignored_ids.iter().any(|(ignored, _)| *ignored == key);
    let added = |asked: Option<bool>, key| if is_ignored(key) { asked.map(|_| false) } else { asked };
    let add_bos = added(keys.bool("tokenizer.ggml.add_bos_token")?, "tokenizer.ggml.bos_token_id");
    let add_eos = added(keys.bool("tokenizer.ggml.add_eos_token")?, "tokenizer.ggml.eos_token_id");
    // The list tokenizer.chat_templates says no more than the keys themselves, which llama.cpp looks up.
    let template = |key: &String| -> Option<Result<(String, String), Failure>> {
        let name = key.strip_prefix("tokenizer.chat_template.")?.to_owned();
        keys.text(key).transpose().map(|text| text.map(|text| (name, text)))
    };
    Ok(Some(GgufVocabulary {
        model,
        pre: keys.text("tokenizer.ggml.pre")?,
        scores: keys.floats("tokenizer.ggml.scores")?,
        token_types: numbers.into_iter().map(token_type).collect::<Result<_, Failure>>()?,
        merges: keys.texts("tokenizer.ggml.merges")?,
        bos,
        eos,
        eot,
        eom,
        unk,
        pad,
        add_bos,
        add_eos,
        add_space_prefix: keys.bool("tokenizer.ggml.add_space_prefix")?,
        chat_template: keys.text("tokenizer.chat_template")?,
        named_chat_templates: keys.entries.keys().filter_map(template).collect::<Result<_, Failure>>()?,
        huggingface_json: keys.text("tokenizer.huggingface.json")?,
        ignored_ids,
        tokens,
    }))
}
