//! Why a key or a value of a config is refused.

use crate::error::quoted;

/// Why a key or a value is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FieldFault {
    /// A value of another type.
    #[error("{field} is {found}, expected {expected}")]
    WrongType {
        /// The field.
        field: String,
        /// The value in words.
        found: String,
        /// The type in words.
        expected: &'static str,
    },
    /// A value of mergekit's that is not supported here.
    #[error("{field} is {found}, which is not supported, expected {expected}{}", did_you_mean(.suggestion))]
    Unsupported {
        /// The field.
        field: String,
        /// The value in words.
        found: String,
        /// The supported values.
        expected: &'static str,
        /// The supported value that was probably meant.
        suggestion: Option<&'static str>,
    },
    /// A key that the format does not have.
    #[error("{} is not a key of {inside}{}", quoted(.key), did_you_mean(.suggestion))]
    UnknownKey {
        /// The key.
        key: String,
        /// The mapping, in words.
        inside: String,
        /// The key that was probably meant.
        suggestion: Option<&'static str>,
    },
    /// A required key is absent.
    #[error("{inside} has no {key}, expected one")]
    MissingKey {
        /// The key.
        key: &'static str,
        /// The mapping, in words.
        inside: String,
    },
    /// Two keys exclude each other.
    #[error("both {first} and {second} are given, expected one of them")]
    BothKeys {
        /// One key.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// A config has one of the three ways to list its input.
    #[error("the config has {found}, expected exactly one of slices, models and modules")]
    NotOneInput {
        /// Which of them it has, in words.
        found: String,
    },
    /// A text that names no model.
    #[error("found model {}, expected a path or a hub id, with at most one @revision", quoted(.found))]
    BadReference {
        /// The text.
        found: String,
    },
}

fn did_you_mean(suggestion: &Option<&'static str>) -> String {
    suggestion.map_or_else(String::new, |known| format!("; did you mean {known}?"))
}
