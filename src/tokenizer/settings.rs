//! Settings of a checkpoint in JSON files beside its tokenizer.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::TokenizerError;
use super::text::read_text;

/// A settings file: a JSON object, empty if the file is not there.
pub(super) struct Settings {
    path: PathBuf,
    keys: Map<String, Value>,
}

impl Settings {
    pub fn read(path: PathBuf) -> Result<Self, TokenizerError> {
        if !path.exists() {
            return Ok(Self { path, keys: Map::new() });
        }
        let keys = serde_json::from_str(&read_text(&path)?)
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
        match text.and_then(id_of) {
            Some(id) => Ok(Some(id)),
            None => Err(self.bad(key, value, "a token of tokenizer.json")),
        }
    }

    /// One id or a list of ids.
    pub fn ids(&self, key: &'static str) -> Result<Vec<u32>, TokenizerError> {
        let values = match self.keys.get(key) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(values)) => values.as_slice(),
            Some(value) => std::slice::from_ref(value),
        };
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        values
            .iter()
            .map(|value| id(value).ok_or_else(|| self.bad(key, value, "a token id or a list of them")))
            .collect()
    }

    fn bad(&self, key: &'static str, value: &Value, expected: &'static str) -> TokenizerError {
        let found = value.to_string().chars().take(80).collect();
        TokenizerError::BadSpecialToken { path: self.path.clone(), key, found, expected }
    }
}
