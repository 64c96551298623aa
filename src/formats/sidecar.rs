//! What a grown checkpoint has from its parent besides weights.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::error::FileError;
use crate::formats::chat_templates::{self, CHAT_TEMPLATE};
use crate::output::commit::PartialDirectory;
use crate::output::disk::Disk;
use crate::output::read::{open_regular, read_bounded, read_through};

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
/// The name of the chat template for want of another.
pub const DEFAULT_TEMPLATE: &str = "default";
/// A tokenizer is in one of these; that a repository on the hub lacks all of them is remembered by the first.
pub(crate) const TOKENIZERS: [&str; 3] = ["tokenizer.json", "tokenizer.model", "vocab.json"];
/// Of a file of text that is read whole.
const LIMIT_BYTES: u64 = 64 << 20;

/// Keys of `config.json` that [`DecoderConfig`](crate::config::DecoderConfig) does not know, and files about text:
/// tokenizer, chat template, generation settings.
#[derive(Debug, Clone, Default)]
pub struct Sidecar {
    /// Keys of the parent's `config.json`.
    pub config_keys: Map<String, Value>,
    /// Files for the child's directory, by name.
    pub files: Vec<(String, Content)>,
}

/// A chat template among several.
pub(super) struct NamedTemplate {
    /// The file that it is in.
    pub file: String,
    pub name: String,
    /// In Jinja.
    pub source: String,
}

/// Where the bytes of an inherited file come from.
#[derive(Debug, Clone)]
pub enum Content {
    /// A file of the parent.
    Copied(PathBuf),
    /// Made from what the parent holds in another form.
    Made(Vec<u8>),
}

impl Sidecar {
    /// Where no parent says: the classes' own defaults would claim token ids that the vocabulary may use otherwise.
    pub fn nothing() -> Self {
        let ids = ["bos_token_id", "eos_token_id"].map(|key| (key.to_owned(), Value::Null));
        Self { config_keys: ids.into_iter().collect(), files: Vec::new() }
    }

    /// Whether a tokenizer is among the files.
    pub fn has_tokenizer(&self) -> bool {
        self.files.iter().any(|(name, _)| TOKENIZERS.contains(&name.as_str()))
    }

    /// The files about text of another checkpoint in place of its own; config keys and generation settings stay.
    #[must_use]
    pub fn with_tokenizer_of(mut self, other: Self) -> Self {
        self.files.retain(|(name, _)| name == GENERATION_CONFIG);
        self.files.extend(other.files.into_iter().filter(|(name, _)| name != GENERATION_CONFIG));
        self
    }

    /// Puts a chat template, in Jinja, in the place of all that the parent has: transformers reads `chat_template.jinja` first, others
    /// read the key of `tokenizer_config.json` first, so both say the same. The latter is left alone if it is no JSON object.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn set_chat_template(&mut self, disk: &dyn Disk, template: &str) -> Result<(), FileError> {
        let replaced = |name: &str| [CHAT_TEMPLATE, "chat_template.json"].contains(&name);
        self.files.retain(|(name, _)| !replaced(name) && chat_templates::name_of(name).is_none());
        if let Some(mut keys) = self.tokenizer_config(disk)?.filter(|keys| keys.contains_key("chat_template")) {
            keys["chat_template"] = template.into();
            let text = format!("{:#}\n", Value::Object(keys)).into_bytes();
            let config = self.files.iter_mut().find(|(name, _)| name == TOKENIZER_CONFIG);
            config.expect("it was read").1 = Content::Made(text);
        }
        self.files.push((CHAT_TEMPLATE.to_owned(), Content::Made(template.as_bytes().to_vec())));
        Ok(())
    }

    /// The chat template, in Jinja, as transformers finds it; of several the one called `default`.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn chat_template(&self, disk: &dyn Disk) -> Result<Option<String>, FileError> {
        let default = self.chat_templates(disk)?.into_iter().find(|template| template.name == DEFAULT_TEMPLATE);
        Ok(default.map(|template| template.source))
    }

    /// All chat templates. Those in files go before one of the same name in `tokenizer_config.json`.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub(super) fn chat_templates(&self, disk: &dyn Disk) -> Result<Vec<NamedTemplate>, FileError> {
        let mut templates = Vec::new();
        for (file, _) in &self.files {
            let name = if file == CHAT_TEMPLATE { Some(DEFAULT_TEMPLATE) } else { chat_templates::name_of(file) };
            let source = if name.is_some() { self.text(disk, file)? } else { None };
            if let (Some(name), Some(Ok(source))) = (name, source.map(String::from_utf8)) {
                templates.push(NamedTemplate { file: file.clone(), name: name.to_owned(), source });
            }
        }
        let keys = self.tokenizer_config(disk)?.unwrap_or_default();
        let template = |name: &Value, source: &Value| {
            let (file, source) = (TOKENIZER_CONFIG.to_owned(), source.as_str()?.to_owned());
            Some(NamedTemplate { file, name: name.as_str()?.to_owned(), source })
        };
        match keys.get("chat_template") {
            Some(Value::Array(several)) => {
                templates.extend(several.iter().filter_map(|one| template(one.get("name")?, one.get("template")?)));
            }
            Some(one) => templates.extend(template(&DEFAULT_TEMPLATE.into(), one)),
            None => {}
        }
        Ok(templates)
    }

    /// The special tokens as text, by the names that chat templates know them by: `bos_token` and alike.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub(super) fn special_tokens(&self, disk: &dyn Disk) -> Result<BTreeMap<String, String>, FileError> {
        let keys = self.tokenizer_config(disk)?.unwrap_or_default();
        let extra = keys.get("extra_special_tokens").and_then(Value::as_object);
        let tokens = keys.iter().filter(|(key, _)| key.ends_with("_token")).chain(extra.into_iter().flatten());
        // A string, or an object with it.
        let text = |token: &Value| token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned);
        Ok(tokens.filter_map(|(key, token)| Some((key.clone(), text(token)?))).collect())
    }

    /// The keys of `tokenizer_config.json`, if it is there and a JSON object.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub(crate) fn tokenizer_config(&self, disk: &dyn Disk) -> Result<Option<Map<String, Value>>, FileError> {
        Ok(self.text(disk, TOKENIZER_CONFIG)?.and_then(|text| serde_json::from_slice(&text).ok()))
    }

    /// The keys of `generation_config.json`; none if it is missing or no JSON object.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub(super) fn generation_config(&self, disk: &dyn Disk) -> Result<Map<String, Value>, FileError> {
        Ok(self.text(disk, GENERATION_CONFIG)?.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default())
    }

    /// The bytes of a file, if there is one of this name.
    fn text(&self, disk: &dyn Disk, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        match self.files.iter().find(|(there, _)| there == name) {
            None => Ok(None),
            Some((_, Content::Made(bytes))) => Ok(Some(bytes.clone())),
            Some((_, Content::Copied(from))) => read_bounded(disk, from, LIMIT_BYTES).map(Some),
        }
    }

    /// Bytes of the files.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn size_bytes(&self, disk: &dyn Disk) -> Result<u64, FileError> {
        let sizes = self.files.iter().map(|(_, content)| match content {
            Content::Made(bytes) => Ok(bytes.len() as u64),
            Content::Copied(from) => Ok(open_regular(disk, from)?.stat().map_err(FileError::io(from))?.size_bytes),
        });
        sizes.sum()
    }

    /// Puts the files into a directory under construction.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn write(&self, disk: &Arc<dyn Disk>, partial: &mut PartialDirectory) -> Result<(), FileError> {
        for (name, content) in &self.files {
            match content {
                Content::Made(bytes) => partial.write(name, bytes)?,
                Content::Copied(from) => {
                    let source = open_regular(&**disk, from)?;
                    let mut file = partial.begin(name)?;
                    let mut written = Ok(());
                    read_through(&*source, &mut |_| (), &mut |bytes| {
                        if written.is_ok() {
                            written = file.push(bytes);
                        }
                    })
                    .map_err(FileError::io(from))?;
                    written?;
                    partial.finish(file)?;
                }
            }
        }
        Ok(())
    }
}
