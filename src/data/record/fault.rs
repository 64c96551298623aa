//! Why a row is not the training example that it should be.

use super::format::RecordFormat;
use crate::error::{listed, quoted};
use crate::tokenizer::NotAMessage;

/// Columns that a message lists.
const SHOWN: usize = 12;

/// Why a row is not of its format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RowFault {
    /// A column is missing, or its value is null.
    #[error("found the columns [{}] and no {column:?}, expected those of {format}", columns(.found))]
    Missing {
        /// The column.
        column: &'static str,
        /// The columns of the row that have values.
        found: Vec<String>,
        /// The format of the file.
        format: RecordFormat,
    },
    /// A value is of the wrong type.
    #[error("{column:?} is {found}, expected {expected}")]
    WrongType {
        /// Its column.
        column: &'static str,
        /// Its type.
        found: &'static str,
        /// The right types.
        expected: &'static str,
    },
    /// Text beside messages.
    #[error("{first:?} is {found_first} and {second:?} is {found_second}, expected both alike")]
    Mixed {
        /// A column.
        first: &'static str,
        /// Type of its value.
        found_first: &'static str,
        /// Another.
        second: &'static str,
        /// Type of its value.
        found_second: &'static str,
    },
    /// A message breaks a rule.
    #[error("message {number} of {column:?}: {fault}")]
    Message {
        /// The column.
        column: &'static str,
        /// Number of the message, from 1.
        number: usize,
        /// The fault.
        fault: MessageFault,
    },
}

/// Faults of a message in a row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageFault {
    /// It is not an object.
    #[error("found {found}, expected an object")]
    NotAnObject {
        /// The type of the value.
        found: &'static str,
    },
    /// An object without a role.
    #[error(transparent)]
    Role(#[from] NotAMessage),
    /// A message of ShareGPT by somebody unknown.
    #[error("\"from\" is {}, expected one of {}", quoted(.found), .expected.join(", "))]
    UnknownSpeaker {
        /// The value of `from`.
        found: String,
        /// Those that are known.
        expected: Vec<&'static str>,
    },
    /// A value of a ShareGPT message is missing or not text.
    #[error("{key:?} is {found}, expected a string")]
    NotText {
        /// `from` or `value`.
        key: &'static str,
        /// The type of the value; `missing` if there is none.
        found: &'static str,
    },
    /// The call of a function is not JSON.
    #[error("found {}, expected the call of a function as JSON with \"name\" and \"arguments\"", quoted(.found))]
    NotACall {
        /// The text.
        found: String,
    },
}

/// The first columns of a row, for a message.
pub(super) fn columns(found: &[String]) -> String {
    listed(&found[..SHOWN.min(found.len())], found.len())
}
