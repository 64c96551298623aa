//! `tokenizer.json`, checked before the library parses it.

use std::path::Path;

use serde::Deserialize;

use super::library::guarded;
use super::{Tokenizer, TokenizerError};

const MODEL_TYPES: [&str; 4] = ["BPE", "Unigram", "WordLevel", "WordPiece"];

/// Fields of `tokenizer.json` checked before the library parses it.
#[derive(Deserialize)]
struct Outline {
    model: Option<ModelOutline>,
    #[serde(default)]
    added_tokens: Vec<AddedTokenOutline>,
}

#[derive(Deserialize)]
struct ModelOutline {
    r#type: Option<String>,
}

#[derive(Deserialize)]
struct AddedTokenOutline {
    id: u32,
    content: String,
}

impl Tokenizer {
    /// Reads the text of a `tokenizer.json`, which messages call `path`. Which ids begin and end a text is not in it.
    ///
    /// # Errors
    /// The variant of the first broken rule.
    pub fn from_json(text: &[u8], path: &Path) -> Result<Self, TokenizerError> {
        let outline: Outline = serde_json::from_slice(text)
            .map_err(|source| TokenizerError::Malformed { path: path.to_owned(), source })?;
        let Some(model) = outline.model else {
            return Err(TokenizerError::NoModel { path: path.to_owned() });
        };
        if let Some(found) = model.r#type.filter(|found| !MODEL_TYPES.contains(&found.as_str())) {
            return Err(TokenizerError::UnknownModel { path: path.to_owned(), found });
        }
        let tokenizer = guarded(|| tokenizers::Tokenizer::from_bytes(text).and_then(Self::wrap))
            .map_err(|reason| TokenizerError::Unsupported { path: path.to_owned(), reason })?;
        for AddedTokenOutline { id: expected, content: token } in outline.added_tokens {
            let found = tokenizer.token_to_id(&token);
            if found != Some(expected) {
                return Err(TokenizerError::MovedToken { path: path.to_owned(), token, expected, found });
            }
        }
        Ok(tokenizer)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::{Value, json};
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    use super::*;
    use crate::error::ErrorKind;

    /// Bytes in the order of their symbols (`!` is 0, `a` 64, a space 220), then `ab`, ` ab`, and `<end>`.
    fn byte_level_bpe() -> Value {
        let alphabet: BTreeMap<u32, String> =
            ByteLevel::alphabet().into_iter().map(|symbol| (symbol as u32, symbol.to_string())).collect();
        let symbols = alphabet.into_values().chain(["ab".to_owned(), "Ġab".to_owned()]);
        let vocab: BTreeMap<String, u32> = symbols.zip(0..).collect();
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": [{"id": 258, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true}],
            "normalizer": null,
            "pre_tokenizer": byte_level,
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<end>", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<end>": {"id": "<end>", "ids": [258], "tokens": ["<end>"]}}},
            "decoder": byte_level,
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
                "merges": ["a b", "Ġ ab"]}
        })
    }

    fn read(json: &Value) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::from_json(json.to_string().as_bytes(), Path::new("tokenizer.json"))
    }

    fn refusal(text: &str) -> TokenizerError {
        let error = Tokenizer::from_json(text.as_bytes(), Path::new("tokenizer.json")).unwrap_err();
        assert!(error.to_string().contains("tokenizer.json"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error
    }

    #[test]
    fn byte_level_bpe_gives_the_ids_that_its_merges_say() {
        let tokenizer = read(&byte_level_bpe()).unwrap();
        assert_eq!(tokenizer.encode("ab ab").unwrap(), [256, 257]);
        assert_eq!(tokenizer.encode("ba\n").unwrap(), [65, 64, 198]);
        assert_eq!(tokenizer.encode("é").unwrap(), [127, 102]);
        assert_eq!(tokenizer.encode("ab<end>!").unwrap(), [256, 258, 0]);
        assert_eq!(tokenizer.encode("").unwrap(), [0_u32; 0]);
        assert_eq!(tokenizer.vocab_size(), 259);
        assert_eq!(tokenizer.token_to_id("Ġab"), Some(257));
        assert_eq!(tokenizer.token_to_id("nothing"), None);
    }

    #[test]
    fn special_tokens_are_added_only_when_asked_for() {
        let tokenizer = read(&byte_level_bpe()).unwrap();
        assert_eq!(tokenizer.encode("ab").unwrap(), [256]);
        assert_eq!(tokenizer.encode_with_special_tokens("ab").unwrap(), [256, 258]);
    }

    #[test]
    fn a_document_has_the_special_tokens_and_its_end_once() {
        let end = Some(258);
        let adding = |pieces: &[&str]| {
            let piece = |name: &&str| match *name {
                "text" => json!({"Sequence": {"id": "A", "type_id": 0}}),
                token => json!({"SpecialToken": {"id": token, "type_id": 0}}),
            };
            let mut json = byte_level_bpe();
            json["post_processor"]["single"] = pieces.iter().map(piece).collect();
            read(&json).unwrap()
        };
        // The fixture has one special token, which here begins a text, ends it, or does both.
        for (pieces, expected) in [
            (&["text"][..], &[256, 258][..]),
            (&["text", "<end>"], &[256, 258]),
            (&["<end>", "text"], &[258, 256, 258]),
            (&["<end>", "text", "<end>"], &[258, 256, 258]),
        ] {
            let tokenizer = adding(pieces);
            assert_eq!(tokenizer.encode_document("ab", end).unwrap(), expected, "{pieces:?}");
            assert_eq!(tokenizer.encode_document("", end).unwrap(), [0_u32; 0], "{pieces:?}");
            let plain = tokenizer.encode_with_special_tokens("ab").unwrap();
            assert_eq!(tokenizer.encode_document("ab", None).unwrap(), plain, "{pieces:?}");
        }
        assert_eq!(adding(&["text"]).encode_document("ab<end>", end).unwrap(), [256, 258]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn byte_level_decoding_gives_back_any_text(text in any::<String>()) {
            let tokenizer = read(&byte_level_bpe()).unwrap();
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()));
            prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        }
    }

    #[test]
    fn truncation_padding_and_random_merges_of_the_file_are_left_out() {
        let mut json = byte_level_bpe();
        json["truncation"] = json!({"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0});
        json["padding"] = json!({"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "!"});
        json["model"]["dropout"] = json!(1.0);
        let as_the_file_says: tokenizers::Tokenizer = json.to_string().parse().unwrap();
        assert_eq!(as_the_file_says.encode("ab ab", false).unwrap().len(), 8);
        assert_eq!(read(&json).unwrap().encode("ab ab").unwrap(), [256, 257]);
        let sha256 = |json: &Value| read(json).unwrap().sha256();
        assert_eq!(sha256(&json), sha256(&byte_level_bpe()));
        json["model"]["merges"] = json!(["a b"]);
        assert_ne!(sha256(&json), sha256(&byte_level_bpe()));
    }

    #[test]
    fn what_is_no_tokenizer_json_is_refused() {
        assert!(matches!(refusal("{\n\"model\""), TokenizerError::Malformed { source, .. } if source.line() == 2));
        assert!(matches!(refusal(""), TokenizerError::Malformed { .. }));
        assert!(matches!(refusal(r#"{"hidden_size": 8}"#), TokenizerError::NoModel { .. }));
    }

    #[test]
    fn a_kind_of_model_that_nobody_can_apply_is_named() {
        let mut json = byte_level_bpe();
        json["model"]["type"] = json!("Morphemes");
        let error = refusal(&json.to_string());
        assert!(matches!(&error, TokenizerError::UnknownModel { found, .. } if found == "Morphemes"));
    }

    #[test]
    fn a_part_of_no_known_kind_is_refused() {
        let mut json = byte_level_bpe();
        json["pre_tokenizer"] = json!({"type": "Oracle"});
        assert!(matches!(refusal(&json.to_string()), TokenizerError::Unsupported { .. }));
        let mut json = byte_level_bpe();
        json["model"]["merges"] = json!(["a nobody"]);
        assert!(matches!(refusal(&json.to_string()), TokenizerError::Unsupported { .. }));
    }

    #[test]
    fn an_added_token_that_comes_out_with_another_id_is_refused() {
        let mut json = byte_level_bpe();
        json["added_tokens"][0]["id"] = json!(300);
        let error = refusal(&json.to_string());
        assert!(matches!(error, TokenizerError::MovedToken { expected: 300, found: Some(258), .. }));
    }

    #[test]
    fn a_panic_of_the_library_is_an_error() {
        let mut json = byte_level_bpe();
        json["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="});
        let error = read(&json).unwrap().encode("ab").unwrap_err();
        assert!(matches!(&error, TokenizerError::Encode { text_bytes: 2, reason } if reason.contains("panicked")));
    }

    #[test]
    fn ids_that_cannot_be_decoded_are_an_error() {
        let mut json = byte_level_bpe();
        json["decoder"] = json!({"type": "Strip", "content": "a", "start": 0, "stop": 2});
        let result = read(&json).unwrap().decode(&[64]);
        assert!(matches!(result, Err(TokenizerError::Decode { num_tokens: 1, .. })), "{result:?}");
    }
}
