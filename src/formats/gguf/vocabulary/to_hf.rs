//! A GGUF vocabulary as the files of a Hugging Face directory.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::merges::{self, Merge};
use super::pre_tokenizer::PreTokenizer;
use super::{GgufVocabulary, Model, TokenType, VocabularyError};
use crate::formats::chat_templates::{self, CHAT_TEMPLATE};
use crate::output::is_output_name;

/// One file of a Hugging Face directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerFile {
    /// Its name in the directory.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// `tokenizer.json`.
#[derive(Serialize)]
struct Form<'a> {
    version: &'static str,
    truncation: (),
    padding: (),
    added_tokens: Vec<Value>,
    normalizer: (),
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    model: Bpe<'a>,
}

/// Its `model`, which holds almost all of it.
#[derive(Serialize)]
struct Bpe<'a> {
    r#type: &'static str,
    dropout: (),
    unk_token: Option<&'a str>,
    continuing_subword_prefix: (),
    end_of_word_suffix: (),
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    #[serde(serialize_with = "ids_by_token")]
    vocab: &'a [String],
    merges: Vec<Merge<'a>>,
}

fn ids_by_token<S: Serializer>(tokens: &&[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(tokens.iter().zip(0u32..))
}

impl GgufVocabulary {
    /// `tokenizer.json`, `tokenizer_config.json` (with the chat template, if there is one), `special_tokens_map.json`,
    /// `generation_config.json`, and a file for each of several chat templates: the tokenizer that transformers makes of the GGUF file, where the two agree with
    /// llama.cpp; digits of `smollm` and the like, and `default`, are split as llama.cpp splits them, which transformers
    /// forgets.
    ///
    /// If the file carries its own `tokenizer.json`, that is the first.
    ///
    /// # Errors
    /// The first broken rule, as its [`VocabularyError`].
    pub fn tokenizer_files(&self) -> Result<Vec<TokenizerFile>, VocabularyError> {
        let file = |name: &str, text: String| TokenizerFile { name: name.to_owned(), text };
        let pretty = |name, value: Value| file(name, format!("{value:#}\n"));
        let (add_bos, add_eos) = self.added()?;
        let tokenizer = match &self.huggingface_json {
            Some(text) => file("tokenizer.json", self.carried(text)?.to_owned()),
            None => file("tokenizer.json", self.tokenizer_json(add_bos, add_eos)?),
        };
        let named: Map<String, Value> = self
            .meanings()
            .into_iter()
            .filter_map(|(name, id)| Some((name.to_owned(), json!(self.text(id)?))))
            .collect();
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
            "add_bos_token": add_bos,
            "add_eos_token": add_eos,
        });
        let keys = config.as_object_mut().expect("it was made one");
        keys.extend(named.clone());
        let templates = self.template_files()?;
        // Beside files of templates, transformers ignores this key.
        let only = self.chat_template.as_ref().filter(|_| templates.is_empty());
        keys.extend(only.map(|template| ("chat_template".to_owned(), json!(template))));
        let ends = match self.named_ends().as_slice() {
            [] => None,
            [one] => Some(json!(one)),
            several => Some(json!(several)),
        };
        let ids = [
            ("bos_token_id", self.bos.map(|id| json!(id))),
            ("eos_token_id", ends),
            ("pad_token_id", self.pad.map(|id| json!(id))),
        ];
        let generation: Map<String, Value> =
            ids.into_iter().filter_map(|(name, id)| Some((name.to_owned(), id?))).collect();
        let mut files = vec![
            tokenizer,
            pretty("tokenizer_config.json", config),
            pretty("special_tokens_map.json", Value::Object(named)),
            pretty("generation_config.json", Value::Object(generation)),
        ];
        files.extend(templates);
        Ok(files)
    }

    /// A file for each chat template, if there are more than the default.
    fn template_files(&self) -> Result<Vec<TokenizerFile>, VocabularyError> {
        let named = self.named_chat_templates.iter().map(|(name, text)| {
            let file = chat_templates::file_of(name);
            let unsafe_name = || VocabularyError::UnsafeTemplateName { name: name.clone() };
            is_output_name(&file).then_some((file, text)).ok_or_else(unsafe_name)
        });
        let mut files = named.collect::<Result<Vec<_>, _>>()?;
        if !files.is_empty() {
            files.extend(self.chat_template.as_ref().map(|text| (CHAT_TEMPLATE.to_owned(), text)));
        }
        Ok(files.into_iter().map(|(name, text)| TokenizerFile { name, text: text.clone() }).collect())
    }

    /// Whether a text begins with [`bos`](Self::bos) and ends with [`eos`](Self::eos).
    fn added(&self) -> Result<(bool, bool), VocabularyError> {
        let by_default = match self.kind()? {
            Model::SentencePiece => true,
            Model::ByteLevel => PreTokenizer::named(self.pre.as_deref())?.add_bos,
        };
        let missing = |key, name| Err(VocabularyError::NothingToAdd { key, name });
        match (self.add_bos, self.bos, self.add_eos, self.eos) {
            (Some(true), None, ..) => missing("add_bos_token", "bos_token_id"),
            (.., Some(true), None) => missing("add_eos_token", "eos_token_id"),
            (add_bos, bos, add_eos, _) => {
                Ok((add_bos.unwrap_or(by_default && bos.is_some()), add_eos.unwrap_or(false)))
            }
        }
    }

    /// The `tokenizer.json` that the file carries, if it speaks of the same tokens.
    fn carried<'a>(&self, text: &'a str) -> Result<&'a str, VocabularyError> {
        let key = "tokenizer.huggingface.json";
        let json: Value =
            serde_json::from_str(text).map_err(|source| VocabularyError::Malformed { file: key, source })?;
        let ids = self.checked()?;
        for (token, id) in json["model"]["vocab"].as_object().into_iter().flatten() {
            let known = ids.get(token.as_str()).map(|&id| id as u64);
            if known != id.as_u64() {
                return Err(VocabularyError::CarriedDisagrees {
                    token: token.clone(),
                    found: id.to_string(),
                    expected: known,
                });
            }
        }
        Ok(text)
    }

    fn tokenizer_json(&self, add_bos: bool, add_eos: bool) -> Result<String, VocabularyError> {
        let ids = self.checked()?;
        let no_order = |missing| VocabularyError::NoOrder { missing, model: self.model.clone() };
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        let (pre_tokenizer, decoder, model) = match self.kind()? {
            Model::ByteLevel if self.merges.is_empty() => return Err(no_order("merges")),
            Model::ByteLevel => {
                let pre_tokenizer = PreTokenizer::named(self.pre.as_deref())?;
                let merges = merges::parsed(&self.merges, &ids)?;
                (pre_tokenizer.to_json(), byte_level, self.bpe(merges, pre_tokenizer.ignore_merges, None))
            }
            Model::SentencePiece => {
                let merges = match (self.merges.as_slice(), self.scores.as_slice()) {
                    ([], []) => return Err(no_order("scores")),
                    ([], scores) => merges::of_scores(&self.tokens, scores, &ids),
                    (merges, _) => merges::parsed(merges, &ids)?,
                };
                let (pre_tokenizer, decoder) = sentencepiece(self.add_space_prefix.unwrap_or(true));
                let unknown = (0..self.tokens.len()).find(|&id| self.token_type(id) == TokenType::Unknown);
                let unknown = self.unk.map(|id| id as usize).or(unknown).map(|id| self.tokens[id].as_str());
                (pre_tokenizer, decoder, self.bpe(merges, false, unknown))
            }
        };
        let form = Form {
            version: "1.0",
            truncation: (),
            padding: (),
            added_tokens: self.added_tokens(),
            normalizer: (),
            pre_tokenizer,
            post_processor: self.post_processor(add_bos, add_eos),
            decoder,
            model,
        };
        Ok(serde_json::to_string_pretty(&form).expect("its keys are text") + "\n")
    }

    fn bpe<'a>(&'a self, merges: Vec<Merge<'a>>, ignore_merges: bool, unk_token: Option<&'a str>) -> Bpe<'a> {
        let sentencepiece = self.model == "llama";
        Bpe {
            r#type: "BPE",
            dropout: (),
            unk_token,
            continuing_subword_prefix: (),
            end_of_word_suffix: (),
            fuse_unk: sentencepiece,
            byte_fallback: sentencepiece,
            ignore_merges,
            vocab: &self.tokens,
            merges,
        }
    }

    /// What is found in a text before all else: control tokens, tokens with a meaning, and what the user defined.
    fn added_tokens(&self) -> Vec<Value> {
        let meant = |id: usize| self.meanings().iter().any(|(_, meant)| *meant == Some(id as u32));
        let special = |id: usize| meant(id) || self.token_type(id) == TokenType::Control;
        let added = |(id, token): (usize, &String)| {
            let is_added = special(id) || self.token_type(id) == TokenType::UserDefined;
            (is_added && !token.is_empty()).then(|| {
                json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": special(id)})
            })
        };
        self.tokens.iter().enumerate().filter_map(added).collect()
    }

    fn post_processor(&self, add_bos: bool, add_eos: bool) -> Value {
        let token = |added: bool, id: Option<u32>| added.then(|| self.text(id)).flatten();
        let (bos, eos) = (token(add_bos, self.bos), token(add_eos, self.eos));
        if bos.is_none() && eos.is_none() {
            return Value::Null;
        }
        let around = |sequence: &str, kind: u32| {
            let special = |token: &str| json!({"SpecialToken": {"id": token, "type_id": kind}});
            let middle = json!({"Sequence": {"id": sequence, "type_id": kind}});
            bos.map(special).into_iter().chain([middle]).chain(eos.map(special)).collect::<Vec<_>>()
        };
        let special: Map<String, Value> = [(bos, self.bos), (eos, self.eos)]
            .into_iter()
            .filter_map(|(token, id)| {
                token.map(|token| (token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]})))
            })
            .collect();
        let pair = [around("A", 0), around("B", 1)].concat();
        json!({
            "type": "TemplateProcessing",
            "single": around("A", 0),
            "pair": pair,
            "special_tokens": special,
        })
    }
}

/// How SentencePiece's text is made of spaces and `▁`, and back: `pre_tokenizer` and `decoder`.
fn sentencepiece(add_space_prefix: bool) -> (Value, Value) {
    let scheme = if add_space_prefix { "first" } else { "never" };
    let pre_tokenizer = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    steps.extend(add_space_prefix.then(|| json!({"type": "Strip", "content": " ", "start": 1, "stop": 0})));
    (pre_tokenizer, json!({"type": "Sequence", "decoders": steps}))
}
