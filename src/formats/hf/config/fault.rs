//! What can be wrong with a `config.json`: one variant per rule.

use serde::Serialize;
use serde_json::json;

use crate::config::ConfigError;
use crate::error::{InFile, cut, quoted};

/// A fault of a `config.json`.
pub type HfConfigError = InFile<ConfigFault>;

/// Why a `config.json` is not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigFault {
    /// The text is not a JSON object of the expected form.
    #[error("{}", cut(.0))]
    Malformed(serde_json::Error),
    /// A key occurs twice at the top level: one of its values would be lost.
    #[error("gives key {} twice, expected once", quoted(.key))]
    RepeatedKey {
        /// The key.
        key: String,
    },
    /// Lists and objects nested deeper than in any real file.
    #[error("nests lists and objects more than {limit} deep, which no real file does")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// More values than any real file has.
    #[error("has {found} values, expected at most {limit}")]
    TooMany {
        /// Number of values.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// The sizes do not make a decoder.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The config calls for tensors or an architecture that are not supported.
    #[error("{key} is {}, expected {expected}", cut(.found))]
    Unsupported {
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
        /// The supported values.
        expected: &'static str,
    },
    /// A value has the wrong type for its key.
    #[error("{}: {}", quoted(.key), cut(.source))]
    BadValue {
        /// The key at the top level.
        key: String,
        /// The parser's complaint.
        source: serde_json::Error,
    },
    /// A key is missing that another key requires.
    #[error("has no {key}, expected one beside {beside}")]
    MissingKey {
        /// The missing key.
        key: &'static str,
        /// The key that requires it.
        beside: &'static str,
    },
    /// Two spellings of one setting disagree.
    #[error("{first} is {} but {second} is {}, expected the same", cut(.first_found), cut(.second_found))]
    KeysDisagree {
        /// A key.
        first: &'static str,
        /// Its value.
        first_found: String,
        /// The other key.
        second: &'static str,
        /// Its value.
        second_found: String,
    },
    /// The length of a list with an entry per layer is not the number of layers.
    #[error("{key} has {found} entries, expected {expected}, one for each of num_hidden_layers")]
    ListLength {
        /// The key.
        key: &'static str,
        /// Length of the list.
        found: usize,
        /// Number of layers.
        expected: usize,
    },
    /// Without `head_dim`, the heads must divide the hidden size.
    #[error(
        "hidden_size {hidden_size} is not a multiple of num_attention_heads {num_attention_heads}, expected one or a head_dim"
    )]
    NoHeadDim {
        /// Width of the residual stream.
        hidden_size: usize,
        /// Query heads.
        num_attention_heads: usize,
    },
}

impl ConfigFault {
    pub(super) fn unsupported(key: &'static str, found: impl Serialize, expected: &'static str) -> Self {
        Self::Unsupported { key, found: json!(found).to_string(), expected }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_values_are_escaped_and_truncated() {
        let found = format!("\u{1b}{}", "y".repeat(1000));
        let message = ConfigFault::Unsupported { key: "hidden_act", found, expected: "silu" }.to_string();
        assert!(message.contains(r"\u{1b}yyy") && message.ends_with("…, expected silu"), "{message}");
        assert!(!message.contains('\u{1b}'));
    }
}
