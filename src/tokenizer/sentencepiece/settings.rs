//! Settings in the files beside a SentencePiece model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::output::disk::Disk;
use crate::tokenizer::TokenizerError;
use crate::tokenizer::settings_file::SettingsFile;

/// The settings of `tokenizer_config.json`, and of the two files that older versions of transformers write beside it.
#[derive(Debug)]
pub(super) struct Settings {
    /// Tokens with a meaning by the key that names them.
    pub named: Vec<(&'static str, Token)>,
    /// Further special tokens.
    pub extra: Vec<Token>,
    /// Tokens that were added to the vocabulary, by the id that the files state.
    pub added: BTreeMap<u32, Token>,
    /// The file that lists them.
    pub added_in: PathBuf,
    /// Whether a beginning of text goes before a text.
    pub add_bos: bool,
    /// Whether an end of text goes behind it.
    pub add_eos: bool,
    /// Whether a space goes before a text, if stated.
    pub add_prefix_space: Option<bool>,
    /// Whether a space also goes before what follows a special token.
    pub legacy: bool,
}

/// Keys that name a token, in the order in which transformers adds the tokens.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A token by its text, or by an object with it and with how it is found.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum Token {
    Text(String),
    Form(TokenForm),
}

/// transformers' `AddedToken`.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct TokenForm {
    pub content: String,
    #[serde(default)]
    pub single_word: bool,
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    pub rstrip: bool,
    pub normalized: Option<bool>,
    #[serde(default)]
    pub special: bool,
}

impl Token {
    /// Its text.
    pub fn content(&self) -> &str {
        match self {
            Self::Text(content) | Self::Form(TokenForm { content, .. }) => content,
        }
    }

    /// Its form. A bare text is not special.
    pub fn form(&self) -> TokenForm {
        match self {
            Self::Text(content) => TokenForm { content: content.clone(), ..TokenForm::default() },
            Self::Form(form) => form.clone(),
        }
    }
}

impl Settings {
    /// Reads the files of `directory`, as far as they are there.
    ///
    /// # Errors
    /// [`TokenizerError::File`], [`TokenizerError::Malformed`], [`TokenizerError::BadSetting`], also for a `tokenizer_class`
    /// that reads SentencePiece models in another way.
    pub fn read(disk: &dyn Disk, directory: &Path) -> Result<Self, TokenizerError> {
        let mut config = SettingsFile::read(disk, directory.join("tokenizer_config.json"))?;
        let class: Option<String> = config.get("tokenizer_class", "a text")?;
        if class.is_some_and(|class| !["LlamaTokenizer", "LlamaTokenizerFast"].contains(&class.as_str())) {
            return Err(config.bad("tokenizer_class", "LlamaTokenizer beside a tokenizer.model without tokenizer.json"));
        }
        let added: Option<BTreeMap<u32, Token>> = config.get("added_tokens_decoder", "an object of tokens by id")?;
        let (mut added_in, mut ids) = (config.path.clone(), BTreeMap::new());
        if added.is_none() {
            config.keys.extend(SettingsFile::read(disk, directory.join("special_tokens_map.json"))?.keys);
            let file = SettingsFile::read(disk, directory.join("added_tokens.json"))?;
            added_in.clone_from(&file.path);
            for content in file.keys.keys() {
                ids.extend(file.get::<u32>(content, "an id")?.map(|id| (id, Token::Text(content.clone()))));
            }
        }
        let named = NAMED.into_iter().filter_map(|key| Some((key, config.get(key, "a token").transpose()?)));
        let named = named.map(|(key, token)| Ok((key, token?)));
        let named: Vec<(_, Token)> = named.collect::<Result<_, TokenizerError>>()?;
        let mut extra = Vec::new();
        for key in ["additional_special_tokens", "extra_special_tokens"] {
            extra.extend(config.get::<Vec<Token>>(key, "a list of tokens")?.unwrap_or_default());
        }
        let flag = |key| config.get::<bool>(key, "true or false");
        Ok(Self {
            add_bos: flag("add_bos_token")?.unwrap_or(false),
            add_eos: flag("add_eos_token")?.unwrap_or(false),
            add_prefix_space: flag("add_prefix_space")?,
            legacy: flag("legacy")?.unwrap_or(false),
            added: added.unwrap_or(ids),
            added_in,
            named,
            extra,
        })
    }
}
