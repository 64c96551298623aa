//! Why a command failed: an exit code and a message, made of the library's errors or of the command line's own.

use std::fmt::{self, Display};
use std::io;
use std::path::Path;

use serde_json::{Value, json};

use crate::bench::BenchError;
use crate::data::DataError;
use crate::data::shards::TokenizeError;
use crate::data::source::SourceError;
use crate::device::DeviceError;
use crate::error::{ErrorKind, FileError};
use crate::eval::{EvalError, SamplesError};
use crate::formats::CheckpointError;
use crate::generate::GenerateError;
use crate::growth::PlanError;
use crate::growth::mergekit::MergeError;
use crate::hub::HubError;
use crate::output::OutputError;
use crate::study::StudyError;
use crate::tokenizer::{ChatTemplateError, TokenizerError};
use crate::upscale::UpscaleError;
use crate::weights::WeightError;

/// Why a command failed.
///
/// A library error becomes a `Failure` by its [`ErrorKind`]; it names no option of the command line, so a command that
/// knows the option adds it with [`Failure::for_option`].
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    code: u8,
    message: String,
    /// Fields of the JSON object beside `error`: what a failed check measured.
    details: Option<Box<Value>>,
}

impl Failure {
    fn new(code: u8, message: impl Display) -> Self {
        Self { code, message: message.to_string(), details: None }
    }

    /// Exit code 1: the system, a device or a computation failed.
    pub fn runtime(message: impl Display) -> Self {
        Self::new(1, message)
    }

    /// Exit code 2: the options do not make sense together.
    pub fn usage(message: impl Display) -> Self {
        Self::new(2, message)
    }

    /// Exit code 3: an input or a plan is bad or unsupported.
    pub fn invalid(message: impl Display) -> Self {
        Self::new(3, message)
    }

    /// Exit code 4: an input does not exist.
    pub fn not_found(message: impl Display) -> Self {
        Self::new(4, message)
    }

    /// Exit code 5: a check failed. With `--json`, the fields of `details` are printed beside the error.
    pub fn check(message: impl Display, details: Value) -> Self {
        Self { details: Some(Box::new(details)), ..Self::new(5, message) }
    }

    /// Exit code 6: this machine has too little memory.
    pub fn too_large(message: impl Display) -> Self {
        Self::new(6, message)
    }

    /// For `map_err`, where `path` is read.
    pub fn reading(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| {
            let kind = if error.kind() == io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Io };
            Self::of_kind(kind, format_args!("cannot read {path:?}: {error}"))
        }
    }

    /// For `map_err`, where `path` is written.
    pub fn writing(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::runtime(format_args!("cannot write {path:?}: {error}"))
    }

    pub(super) fn of_kind(kind: ErrorKind, message: impl Display) -> Self {
        match kind {
            ErrorKind::NotFound => Self::not_found(message),
            ErrorKind::Invalid => Self::invalid(message),
            ErrorKind::Io => Self::runtime(message),
        }
    }

    /// Puts the option that asked for it before the message: `--dus 12: overlap …`.
    #[must_use]
    pub fn for_option(mut self, option: impl Display) -> Self {
        self.message = format!("{option}: {}", self.message);
        self
    }

    /// Puts a hint behind the message of an input that does not exist.
    #[must_use]
    pub fn with_hint_if_not_found(mut self, hint: impl Display) -> Self {
        if self.code == Self::not_found("").code {
            self.message = format!("{} ({hint})", self.message);
        }
        self
    }

    /// The exit code; `docs/exit-codes.md` lists them.
    pub fn code(&self) -> u8 {
        self.code
    }

    /// The failure as the one JSON object of `--json`, with the exit code of the process.
    pub(super) fn to_json(&self, code: u8) -> Value {
        let mut object = self.details.as_deref().cloned().unwrap_or_else(|| json!({}));
        object["error"] = json!({"code": code, "message": self.message});
        object
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// For errors with a `kind()`.
macro_rules! from_errors {
    ($($error:ty),* $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::of_kind(error.kind(), error)
            }
        })*
    };
}

from_errors!(
    ChatTemplateError,
    DataError,
    EvalError,
    FileError,
    GenerateError,
    HubError,
    PlanError,
    SamplesError,
    SourceError,
    TokenizerError,
    UpscaleError
);

/// The message names the option that accepts the values.
impl From<WeightError> for Failure {
    fn from(error: WeightError) -> Self {
        let hint = match error {
            WeightError::Overflow { .. } => " (--saturate writes its largest)",
            WeightError::NotFinite { .. } => " (--allow-nonfinite takes it)",
            WeightError::NotWritable { .. } => " (--out-type gguf:bf16 and gguf:f32 have a wider one)",
            _ => "",
        };
        Self::of_kind(error.kind(), format_args!("{error}{hint}"))
    }
}

/// The message names the option that replaces the target.
impl From<OutputError> for Failure {
    fn from(error: OutputError) -> Self {
        match error {
            OutputError::Weights(error) => error.into(),
            OutputError::Exists { .. } => Self::invalid(format_args!("{error} (--force replaces what deepwide made)")),
            OutputError::Modified { .. } => Self::invalid(format_args!("{error} (--discard-modified replaces it)")),
            _ => Self::of_kind(error.kind(), error),
        }
    }
}

/// The message names the option that chooses the field.
impl From<TokenizeError> for Failure {
    fn from(error: TokenizeError) -> Self {
        match error {
            TokenizeError::Output(error) => error.into(),
            _ if error.lacks_text() => Self::invalid(format_args!("{error} (--text-field names another)")),
            _ => Self::of_kind(error.kind(), error),
        }
    }
}

impl From<CheckpointError> for Failure {
    fn from(error: CheckpointError) -> Self {
        match error {
            CheckpointError::Weights(error) => error.into(),
            CheckpointError::Output(error) => error.into(),
            _ => Self::of_kind(error.kind(), error),
        }
    }
}

impl From<MergeError> for Failure {
    fn from(error: MergeError) -> Self {
        Self::invalid(error)
    }
}

/// The message names the option that replaces another study.
impl From<StudyError> for Failure {
    fn from(error: StudyError) -> Self {
        match error {
            StudyError::Weights(error) => error.into(),
            StudyError::Base(error) => error.into(),
            StudyError::OtherStudy { .. } => Self::invalid(format_args!("{error} (--force replaces it)")),
            StudyError::OtherRuns { .. } => Self::invalid(format_args!("{error} (--force removes them)")),
            _ => Self::of_kind(error.kind(), error),
        }
    }
}

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Self {
        match error {
            BenchError::NothingToMeasure | BenchError::TooManyTests { .. } | BenchError::NoBlocksHere { .. } => {
                Self::usage(error)
            }
            BenchError::TooLarge { .. } => Self::too_large(error),
            _ => Self::of_kind(error.kind(), error),
        }
    }
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Self {
        let failure = match error {
            DeviceError::Unknown { .. } => Self::usage(error),
            DeviceError::Broken { .. } | DeviceError::Failed { .. } | DeviceError::Wrong { .. } => Self::runtime(error),
        };
        failure.for_option("--device")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_has_a_code_of_its_own() {
        let failure = |kind| Failure::reading(Path::new("a/b"))(io::Error::new(kind, "no"));
        assert_eq!(failure(io::ErrorKind::NotFound).code(), 4);
        assert_eq!(failure(io::ErrorKind::PermissionDenied).code(), 1);
        assert_eq!(failure(io::ErrorKind::NotFound).to_string(), "cannot read \"a/b\": no");
    }

    #[test]
    fn an_option_is_named_before_the_message_and_keeps_the_code() {
        let failure = Failure::from(PlanError::OverlapTooLarge { overlap: 8, num_layers: 8 }).for_option("--dus 8");
        assert!(failure.to_string().starts_with("--dus 8: "), "{failure}");
        assert_eq!(failure.code(), 3);
    }

    #[test]
    fn a_failed_check_is_printed_beside_what_it_measured() {
        let failure = Failure::check("a logit moved", json!({"files": 3}));
        let expected = json!({"files": 3, "error": {"code": 5, "message": "a logit moved"}});
        assert_eq!(failure.to_json(failure.code()), expected);
        assert_eq!(Failure::usage("no").to_json(130), json!({"error": {"code": 130, "message": "no"}}));
    }
}
