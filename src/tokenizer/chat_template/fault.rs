//! Why a chat template cannot be read or rendered.

use std::error::Error;
use std::iter::successors;

use super::environment::{FUEL, Refusal};
use crate::error::{ErrorKind, InFile, cut};

/// Why a chat template cannot be read or rendered, and the file that it is from.
pub type ChatTemplateError = InFile<TemplateFault>;

impl ChatTemplateError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self.fault {
            TemplateFault::Thread(_) => ErrorKind::Io,
            _ => ErrorKind::Invalid,
        }
    }
}

/// Why a chat template cannot be read or rendered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateFault {
    /// The source is longer than that of any real template.
    #[error("the chat template has {found_bytes} bytes, expected at most {limit_bytes}")]
    TooLarge {
        /// Size of the source.
        found_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// A tag is longer than those of any real template.
    #[error(
        "line {line} of the chat template: found a tag of {found_bytes} bytes without its strings, expected at most {limit_bytes}"
    )]
    TagTooLarge {
        /// The line on which it begins, from 1.
        line: usize,
        /// Its size without string literals.
        found_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// The source is not Jinja, or a value is not what the template needs.
    #[error("line {line} of the chat template: {}", cut(.reason))]
    Jinja {
        /// The line, from 1.
        line: usize,
        /// Reason.
        reason: String,
    },
    /// The template calls `raise_exception`.
    #[error("line {line} of the chat template refuses the chat: {}", cut(.reason))]
    Refused {
        /// The line of the call, from 1.
        line: usize,
        /// The message.
        reason: String,
    },
    /// Rendering takes more steps or memory than any real template needs.
    #[error(
        "line {line} of the chat template: stopped, expected at most {steps} steps and 64 bytes of output per step"
    )]
    Endless {
        /// The line that it had reached, from 1.
        line: usize,
        /// The limit.
        steps: u64,
    },
    /// The chat is longer than any context.
    #[error("the chat has {found_bytes} bytes as JSON, expected at most {limit_bytes}")]
    ChatTooLarge {
        /// Size of messages, tools and documents.
        found_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// The template alters what its `generation` blocks give, so that they are not found in its output.
    #[error("the chat template alters or repeats the text of its generation blocks, expected the text unchanged")]
    AlteredGeneration,
    /// No thread could be started for reading the template.
    #[error("cannot start a thread to parse the chat template: {0}")]
    Thread(std::io::Error),
}

impl TemplateFault {
    /// The fault behind an error of the engine.
    pub(super) fn of(error: &minijinja::Error) -> Self {
        let line = error.line().unwrap_or(1);
        let sources = successors(error.source(), |error: &&'_ (dyn Error + 'static)| (*error).source());
        let refusal = sources.into_iter().find_map(|error| error.downcast_ref::<Refusal>());
        match (refusal, error.kind()) {
            (Some(Refusal(reason)), _) => Self::Refused { line, reason: reason.clone() },
            (None, minijinja::ErrorKind::OutOfFuel) => Self::Endless { line, steps: FUEL },
            (None, kind) => {
                let reason = error.detail().map_or(kind.to_string(), |detail| format!("{kind}: {detail}"));
                // The end of a generation block is read as that of a `with` block.
                Self::Jinja { line, reason: reason.replace("endwith", "endgeneration") }
            }
        }
    }
}
