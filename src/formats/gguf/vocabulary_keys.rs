//! The keys `tokenizer.*` of a GGUF file as its vocabulary.

use super::cursor::Failure;
use super::metadata::Metadata;
use super::{GgufFault, GgufVocabulary, TokenType};

/// The vocabulary, if the file has one; unchecked but for the types of its keys.
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
    Ok(Some(GgufVocabulary {
        model,
        pre: keys.text("tokenizer.ggml.pre")?,
        tokens: keys.texts("tokenizer.ggml.tokens")?,
        scores: keys.floats("tokenizer.ggml.scores")?,
        token_types: numbers.into_iter().map(token_type).collect::<Result<_, Failure>>()?,
        merges: keys.texts("tokenizer.ggml.merges")?,
        bos: keys.id("tokenizer.ggml.bos_token_id")?,
        eos: keys.id("tokenizer.ggml.eos_token_id")?,
        unk: keys.id("tokenizer.ggml.unknown_token_id")?,
        pad: keys.id("tokenizer.ggml.padding_token_id")?,
        add_bos: keys.bool("tokenizer.ggml.add_bos_token")?,
        add_eos: keys.bool("tokenizer.ggml.add_eos_token")?,
        add_space_prefix: keys.bool("tokenizer.ggml.add_space_prefix")?,
        chat_template: keys.text("tokenizer.chat_template")?,
        huggingface_json: keys.text("tokenizer.huggingface.json")?,
    }))
}
