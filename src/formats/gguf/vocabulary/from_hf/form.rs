//! The parts of `tokenizer.json` and `tokenizer_config.json` that decide about ids.

use std::collections::HashMap;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::super::error::not_representable;
use super::super::merges::Merge;
use super::super::{TokenType, VocabularyError};

/// The name of the chat template that is used where none is asked for.
pub(super) const DEFAULT: &str = "default";

/// `tokenizer.json`.
#[derive(Debug, Deserialize)]
pub(super) struct Form {
    #[serde(default)]
    pub added_tokens: Vec<AddedToken>,
    #[serde(default)]
    pub normalizer: Value,
    #[serde(default)]
    pub pre_tokenizer: Value,
    #[serde(default)]
    pub post_processor: Value,
    pub model: ModelForm,
}

/// Its `model`.
#[derive(Debug, Deserialize)]
pub(super) struct ModelForm {
    pub r#type: Option<String>,
    pub unk_token: Option<String>,
    pub continuing_subword_prefix: Option<String>,
    pub end_of_word_suffix: Option<String>,
    #[serde(default)]
    pub byte_fallback: bool,
    #[serde(default)]
    pub ignore_merges: bool,
    #[serde(default, deserialize_with = "ids")]
    pub vocab: HashMap<String, u32>,
    #[serde(default)]
    merges: Vec<MergeForm>,
}

/// A token that is found in a text before all else.
#[derive(Debug, Deserialize)]
pub(super) struct AddedToken {
    pub id: u32,
    pub content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    single_word: bool,
}

/// A merge in the old spelling, `"a b"`, or the new, `["a", "b"]`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum MergeForm {
    Joined(String),
    Apart(String, String),
}

/// `tokenizer_config.json`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct TokenizerConfig {
    #[serde(default)]
    pub bos_token: Named,
    #[serde(default)]
    pub eos_token: Named,
    #[serde(default)]
    pub unk_token: Named,
    #[serde(default)]
    pub pad_token: Named,
    pub add_bos_token: Option<bool>,
    pub add_eos_token: Option<bool>,
    #[serde(default)]
    chat_template: Value,
}

/// A token by its text, or by an object that holds it.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
pub(super) enum Named {
    #[default]
    None,
    Text(String),
    Object {
        content: String,
    },
}

/// An empty vocabulary in the place of one that is no object: the type of the model is refused first.
fn ids<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HashMap<String, u32>, D::Error> {
    deserializer.deserialize_any(IdsVisitor)
}

struct IdsVisitor;

impl<'de> Visitor<'de> for IdsVisitor {
    type Value = HashMap<String, u32>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of ids by token")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut ids = HashMap::new();
        while let Some((token, id)) = map.next_entry()? {
            ids.insert(token, id);
        }
        Ok(ids)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(HashMap::new())
    }
}

impl Named {
    /// The text, if there is a token.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Text(text) | Self::Object { content: text } => Some(text),
        }
    }
}

impl AddedToken {
    /// Control if it is special, else what the user defined.
    pub fn token_type(&self) -> TokenType {
        if self.special { TokenType::Control } else { TokenType::UserDefined }
    }

    /// Whether it looks at, or takes, the text beside it.
    pub fn takes_what_is_beside_it(&self) -> bool {
        self.lstrip || self.rstrip || self.single_word
    }
}

impl ModelForm {
    /// The merges as pairs.
    pub fn merges(&self) -> Result<Vec<Merge<'_>>, VocabularyError> {
        let pairs = self.merges.iter().enumerate().map(|(index, merge)| match merge {
            MergeForm::Apart(left, right) => Ok((left.as_str(), right.as_str())),
            MergeForm::Joined(merge) => {
                let parts = merge.split_once(' ').filter(|(_, right)| !right.contains(' '));
                parts.ok_or_else(|| VocabularyError::BadMerge { index, merge: merge.clone() })
            }
        });
        pairs.collect()
    }
}

impl TokenizerConfig {
    /// The chat templates by name; a single one is called `default`.
    pub fn chat_templates(&self) -> Result<Vec<(&str, &str)>, VocabularyError> {
        let templates: Option<Vec<_>> = match &self.chat_template {
            Value::Null => Some(Vec::new()),
            Value::String(template) => Some(vec![(DEFAULT, template.as_str())]),
            Value::Array(several) => {
                several.iter().map(|one| Some((one["name"].as_str()?, one["template"].as_str()?))).collect()
            }
            _ => None,
        };
        let expected = "a template, or a list of objects with a name and a template";
        templates.ok_or_else(|| not_representable("chat_template", &self.chat_template, expected))
    }
}

impl Form {
    /// Whether a space is put before a text, in either of the two ways in which `tokenizer.json` says how spaces become
    /// `▁`: by a `Metaspace` that does not split, or by a normalizer.
    pub fn has_space_prefix(&self) -> Result<bool, VocabularyError> {
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let prepend = json!({"type": "Prepend", "prepend": "▁"});
        let both = json!({"type": "Sequence", "normalizers": [prepend, replace]});
        match (&self.normalizer, &self.pre_tokenizer) {
            (Value::Null, metaspace) => {
                let plain =
                    metaspace["type"] == "Metaspace" && metaspace["replacement"] == "▁" && metaspace["split"] == false;
                match metaspace["prepend_scheme"].as_str() {
                    Some("first" | "always") if plain => Ok(true),
                    Some("never") if plain => Ok(false),
                    _ => Err(not_representable(
                        "pre_tokenizer",
                        metaspace,
                        "a Metaspace of ▁ with split false and a prepend_scheme",
                    )),
                }
            }
            (normalizer, Value::Null) if *normalizer == both => Ok(true),
            (normalizer, Value::Null) if *normalizer == replace => Ok(false),
            (normalizer, Value::Null) => {
                Err(not_representable("normalizer", normalizer, "▁ for spaces, with or without one before"))
            }
            (_, pre_tokenizer) => Err(not_representable("pre_tokenizer", pre_tokenizer, "none beside a normalizer")),
        }
    }
}

/// What a `post_processor` puts before and after a text.
pub(super) fn added_around(processor: &Value) -> Result<(Option<&str>, Option<&str>), VocabularyError> {
    match processor["type"].as_str() {
        None if processor.is_null() => Ok((None, None)),
        // Changes offsets, not ids.
        Some("ByteLevel") => Ok((None, None)),
        Some("Sequence") => {
            let steps = processor["processors"].as_array().map_or(&[][..], Vec::as_slice);
            steps.iter().try_fold((None, None), |(begin, end), step| {
                let (first, last) = added_around(step)?;
                Ok((first.or(begin), last.or(end)))
            })
        }
        Some("TemplateProcessing") => {
            let single = processor["single"].as_array().map_or(&[][..], Vec::as_slice);
            let special = |item: &Value| token(item).is_some();
            match single {
                [sequence] if !special(sequence) => Ok((None, None)),
                [begin, sequence] if special(begin) && !special(sequence) => Ok((token(begin), None)),
                [sequence, end] if special(end) && !special(sequence) => Ok((None, token(end))),
                [begin, sequence, end] if special(begin) && special(end) && !special(sequence) => {
                    Ok((token(begin), token(end)))
                }
                _ => {
                    Err(not_representable("post_processor", processor, "at most one token before and one after a text"))
                }
            }
        }
        _ => Err(not_representable("post_processor", processor, "ByteLevel or TemplateProcessing")),
    }
}

fn token(item: &Value) -> Option<&str> {
    item["SpecialToken"]["id"].as_str()
}
