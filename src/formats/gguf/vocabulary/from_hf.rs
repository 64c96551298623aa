//! The tokenizer of a Hugging Face directory as a GGUF vocabulary.

mod directory;
mod form;

use std::collections::{BTreeMap, HashMap};

use serde_json::json;

use self::form::{DEFAULT, Form, ModelForm, TokenizerConfig, added_around};
use super::error::not_representable;
use super::merges::{self, Merge};
use super::pre_tokenizer::PreTokenizer;
use super::{GgufVocabulary, TokenType, VocabularyError};

/// The files of a Hugging Face directory that a vocabulary is made of, as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HfTokenizer {
    /// `tokenizer.json`.
    pub tokenizer_json: String,
    /// `tokenizer_config.json`, which names the tokens with a meaning.
    pub tokenizer_config_json: Option<String>,
    /// `chat_template.jinja`, where the template is not in `tokenizer_config.json`.
    pub chat_template: Option<String>,
    /// `additional_chat_templates/NAME.jinja`, by name.
    pub named_chat_templates: BTreeMap<String, String>,
}

/// More would not be a vocabulary.
const MOST_TOKENS: u32 = 1 << 24;

impl GgufVocabulary {
    /// The vocabulary with which llama.cpp gives the ids that this tokenizer gives.
    ///
    /// Byte-level BPE keeps its merges; BPE with `byte_fallback`, as of Llama and Mistral, becomes scores, with the merges
    /// beside them.
    ///
    /// # Errors
    /// [`VocabularyError::Malformed`]; [`VocabularyError::NotRepresentable`], [`VocabularyError::NotByScore`] or
    /// [`VocabularyError::MissingByte`] for what GGUF cannot represent, which includes `Unigram`: llama.cpp joins the pieces of
    /// `llama` by score and does not search for the best segmentation; [`VocabularyError::IdTwice`];
    /// [`VocabularyError::OneTemplateKey`].
    pub fn from_hf(files: &HfTokenizer) -> Result<Self, VocabularyError> {
        let form: Form = parsed("tokenizer.json", &files.tokenizer_json)?;
        let config: TokenizerConfig = match &files.tokenizer_config_json {
            Some(text) => parsed("tokenizer_config.json", text)?,
            None => TokenizerConfig::default(),
        };
        plain_bpe(&form.model)?;
        let tokens = tokens_by_id(&form)?;
        let merges = form.model.merges()?;
        let mut vocabulary = if form.model.byte_fallback {
            sentencepiece(&form, tokens, merges)?
        } else {
            byte_level(&form, tokens, merges)?
        };
        let ids: HashMap<&str, u32> = vocabulary.tokens.iter().map(String::as_str).zip(0..).collect();
        let id = |key: &'static str, token: Option<&str>| match token {
            None => Ok(None),
            Some(token) => {
                let unknown = || not_representable(key, &json!(token), "one of the tokens");
                ids.get(token).copied().map(Some).ok_or_else(unknown)
            }
        };
        let (begin, end) = added_around(&form.post_processor)?;
        let says_nothing = form.post_processor.is_null();
        let bos = id("bos_token", begin.or(config.bos_token.text()))?;
        let eos = id("eos_token", end.or(config.eos_token.text()))?;
        let unk = id("unk_token", form.model.unk_token.as_deref().or(config.unk_token.text()))?;
        let pad = id("pad_token", config.pad_token.text())?;
        let adds = |token: Option<&str>, asked: Option<bool>, id: Option<u32>| {
            Some(token.is_some() || says_nothing && asked == Some(true) && id.is_some())
        };
        (vocabulary.add_bos, vocabulary.add_eos) =
            (adds(begin, config.add_bos_token, bos), adds(end, config.add_eos_token, eos));
        (vocabulary.bos, vocabulary.eos, vocabulary.unk, vocabulary.pad) = (bos, eos, unk, pad);
        vocabulary.named_chat_templates = chat_templates(&config, files)?;
        vocabulary.chat_template = vocabulary.named_chat_templates.remove(DEFAULT);
        if let (Some(unk), true) = (unk, form.model.byte_fallback) {
            vocabulary.token_types[unk as usize] = TokenType::Unknown;
        }
        Ok(vocabulary)
    }
}

/// The chat templates by the names that they have in GGUF. Where a name is given twice, `tokenizer_config.json` says which
/// template is meant, as for llama.cpp's converter.
fn chat_templates(config: &TokenizerConfig, files: &HfTokenizer) -> Result<BTreeMap<String, String>, VocabularyError> {
    let default = files.chat_template.iter().map(|template| (DEFAULT, template.as_str()));
    let named = files.named_chat_templates.iter().map(|(name, template)| (name.as_str(), template.as_str()));
    let templates: BTreeMap<&str, &str> = default.chain(named).chain(config.chat_templates()?).collect();
    let mut keys: BTreeMap<String, &str> = BTreeMap::new();
    for name in templates.keys() {
        let key: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        if let Some(first) = keys.insert(key, name) {
            return Err(VocabularyError::OneTemplateKey { first: first.to_owned(), second: (*name).to_owned() });
        }
    }
    Ok(keys.into_iter().map(|(key, name)| (key, templates[name].to_owned())).collect())
}

fn parsed<T: serde::de::DeserializeOwned>(file: &'static str, text: &str) -> Result<T, VocabularyError> {
    serde_json::from_str(text).map_err(|source| VocabularyError::Malformed { file, source })
}

/// Refuses models other than BPE, and words whose parts are marked.
fn plain_bpe(model: &ModelForm) -> Result<(), VocabularyError> {
    if model.r#type.as_deref().is_some_and(|found| found != "BPE") {
        return Err(not_representable("model.type", &json!(model.r#type), "\"BPE\""));
    }
    for (key, mark) in [
        ("model.continuing_subword_prefix", &model.continuing_subword_prefix),
        ("model.end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        if mark.as_ref().is_some_and(|mark| !mark.is_empty()) {
            return Err(not_representable(key, &json!(mark), "none"));
        }
    }
    Ok(())
}

/// Token and type by id, holes filled.
fn tokens_by_id(form: &Form) -> Result<(Vec<String>, Vec<TokenType>), VocabularyError> {
    let mut tokens: BTreeMap<u32, (&str, TokenType)> = BTreeMap::new();
    let added = form.added_tokens.iter().map(|token| (token.content.as_str(), token.id, token.token_type()));
    let pieces = form.model.vocab.iter().map(|(token, id)| (token.as_str(), *id, TokenType::Normal));
    for (token, id, kind) in pieces.chain(added) {
        match tokens.insert(id, (token, kind)) {
            Some((first, _)) if first != token => {
                return Err(VocabularyError::IdTwice { id, first: first.to_owned(), second: token.to_owned() });
            }
            _ => {}
        }
    }
    if let Some(token) = form.added_tokens.iter().find(|token| token.takes_what_is_beside_it()) {
        let expected = "lstrip, rstrip and single_word false";
        return Err(not_representable("added_tokens", &json!(token.content), expected));
    }
    let count = tokens.last_key_value().map_or(0, |(id, _)| *id + 1);
    if count > MOST_TOKENS {
        return Err(not_representable("model.vocab", &json!(count), "at most 16777216 ids"));
    }
    let filled = |id| match tokens.get(&id) {
        Some((token, kind)) => ((*token).to_owned(), *kind),
        None => (format!("[PAD{id}]"), TokenType::Unused),
    };
    Ok((0..count).map(filled).unzip())
}

type Tokens = (Vec<String>, Vec<TokenType>);

fn byte_level(
    form: &Form,
    (tokens, token_types): Tokens,
    merges: Vec<Merge<'_>>,
) -> Result<GgufVocabulary, VocabularyError> {
    if !form.normalizer.is_null() {
        return Err(not_representable("normalizer", &form.normalizer, "none beside byte-level BPE"));
    }
    let pre_tokenizer = PreTokenizer::of_json(&form.pre_tokenizer, form.model.ignore_merges)?;
    Ok(GgufVocabulary {
        model: "gpt2".to_owned(),
        pre: Some(pre_tokenizer.names[0].to_owned()),
        tokens,
        token_types,
        merges: joined(&merges)?,
        ..GgufVocabulary::default()
    })
}

fn sentencepiece(
    form: &Form,
    (tokens, mut token_types): Tokens,
    merges: Vec<Merge<'_>>,
) -> Result<GgufVocabulary, VocabularyError> {
    if form.model.ignore_merges {
        return Err(not_representable("model.ignore_merges", &json!(true), "false beside byte_fallback"));
    }
    let ids: HashMap<&str, usize> = tokens.iter().map(String::as_str).zip(0..).collect();
    for byte in 0..=u8::MAX {
        let token = format!("<0x{byte:02X}>");
        match ids.get(token.as_str()) {
            Some(&id) => token_types[id] = TokenType::Byte,
            None => return Err(VocabularyError::MissingByte { token }),
        }
    }
    let scores = merges::scores(&merges, &tokens, &ids, |id| token_types[id] == TokenType::Normal)?;
    Ok(GgufVocabulary {
        model: "llama".to_owned(),
        pre: Some("default".to_owned()),
        add_space_prefix: Some(form.has_space_prefix()?),
        merges: joined(&merges)?,
        tokens,
        scores,
        token_types,
        ..GgufVocabulary::default()
    })
}

/// Merges with a space between, which no left part may have inside.
fn joined(merges: &[Merge<'_>]) -> Result<Vec<String>, VocabularyError> {
    let one = |(left, right): &Merge<'_>| match left.chars().skip(1).any(|c| c == ' ') {
        true => Err(not_representable("model.merges", &json!([left, right]), "no space within a token")),
        false => Ok(format!("{left} {right}")),
    };
    merges.iter().map(one).collect()
}
