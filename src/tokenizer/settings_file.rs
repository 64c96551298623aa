//! Settings of a checkpoint in JSON files beside its tokenizer.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::TokenizerError;
use super::text::read_text;
use crate::output::disk::Disk;
use crate::output::read::exists;

/// A settings file: a JSON object, empty if the file is not there.
pub(super) struct SettingsFile {
    pub path: PathBuf,
    pub keys: Map<String, Value>,
}

impl SettingsFile {
    pub fn read(disk: &dyn Disk, path: PathBuf) -> Result<Self, TokenizerError> {
        if !exists(disk, &path)? {
            return Ok(Self { path, keys: Map::new() });
        }
        let keys = serde_json::from_str(&read_text(disk, &path)?)
            .map_err(|source| TokenizerError::Malformed { path: path.clone(), source })?;
        Ok(Self { path, keys })
    }

    /// The id of a token that is given by its text, bare or as the `content` of an object.
    pub fn token(&self, key: &'static str, id_of: impl Fn(&str) -> Option<u32>) -> Result<Option<u32>, TokenizerError> {
        let value = match self.keys.get(key) {
            None | Some(Value::Null) => return Ok(None),
            Some(value) => value,
        };
        let text = value.as_str().or_else(|| value.get("content")?.as_str());
        text.and_then(id_of).map(Some).ok_or_else(|| self.bad(key, "a token of the vocabulary"))
    }

    /// One id or a list of ids.
    pub fn ids(&self, key: &'static str) -> Result<Vec<u32>, TokenizerError> {
        let values = match self.keys.get(key) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(values)) => values.as_slice(),
            Some(value) => std::slice::from_ref(value),
        };
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        values.iter().map(|value| id(value).ok_or_else(|| self.bad(key, "a token id or a list of them"))).collect()
    }

    /// The value of a key, `None` if it is absent or null.
    pub fn get<'a, T: Deserialize<'a>>(
        &'a self,
        key: &str,
        expected: &'static str,
    ) -> Result<Option<T>, TokenizerError> {
        let value = self.keys.get(key).map(Option::deserialize);
        value.transpose().map(Option::flatten).map_err(|_| self.bad(key, expected))
    }

    /// The error for a value that cannot be used.
    pub fn bad(&self, key: &str, expected: &'static str) -> TokenizerError {
        let found = self.keys.get(key).unwrap_or(&Value::Null).to_string().chars().take(80).collect();
        TokenizerError::BadSetting { path: self.path.clone(), key: key.to_owned(), found, expected }
    }
}
