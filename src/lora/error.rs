//! Why an adapter cannot be made, or does not fit a decoder.

use crate::error::{ErrorKind, cut, quoted};
use crate::weights::TensorId;

/// Why an adapter cannot be made, or does not fit a decoder.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LoraError {
    /// A rank of 0.
    #[error("found rank 0{}, expected at least 1", for_pattern(.pattern))]
    Rank {
        /// The pattern that asks for it.
        pattern: Option<String>,
    },
    /// A rank above both sizes of a matrix, probably a typing error.
    #[error("found rank {found} for {id}, expected at most {limit}, the larger of its sizes")]
    RankTooLarge {
        /// The matrix.
        id: TensorId,
        /// The rank.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// A scale that is not finite.
    #[error("found lora_alpha {found}, expected a finite number")]
    Alpha {
        /// The value.
        found: f64,
    },
    /// A probability that leaves nothing, or is none.
    #[error("found lora_dropout {found}, expected at least 0 and below 1")]
    Dropout {
        /// The value.
        found: f64,
    },
    /// A pattern of names is not a valid regular expression.
    #[error("found {} in {key}, expected a regular expression: {}", quoted(.pattern), cut(.error))]
    Pattern {
        /// The key of the config.
        key: &'static str,
        /// The pattern.
        pattern: String,
        /// The fault.
        error: String,
    },
    /// No matrix of the decoder is a target.
    #[error("found no linear map of the decoder in {targets}, expected some of {}", .modules.join(", "))]
    NoTarget {
        /// Value in the config.
        targets: String,
        /// The last part of the name of each linear map.
        modules: Vec<&'static str>,
    },
    /// An update that the config does not ask for, or none where it does.
    #[error("found {found} for {id}, expected {expected}")]
    Mismatch {
        /// The matrix.
        id: TensorId,
        /// Value in the adapter.
        found: String,
        /// Value in the config.
        expected: String,
    },
}

impl LoraError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

fn for_pattern(pattern: &Option<String>) -> String {
    pattern.as_ref().map_or_else(String::new, |pattern| format!(" for {}", quoted(pattern)))
}
