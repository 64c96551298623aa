//! The commands: arguments in, files and a table out, an exit code for every kind of failure.
//!
//! Only this module, `main` and the experiments know a path or a command line. Results go to stdout, everything else
//! to stderr; nothing is written before every input has been checked.

pub mod bench;
pub mod compare;
pub mod completions;
mod console;
mod device;
pub mod grow;
pub mod hub;
pub mod inspect;
mod interrupt;
pub mod man;
mod output;
mod progress;
mod run_info;
pub mod verify;

use std::fmt::Display;
use std::process::ExitCode;

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::data::text::DataError;
use crate::error::ErrorKind;
use crate::figure::FigureError;
use crate::growth::PlanError;
use crate::growth::mergekit::MergeError;
use crate::hub::HubError;
use crate::output::receipt::Fault;
use crate::report::RecordError;
use crate::study::StudyError;
use crate::tokenizer::TokenizerError;
use crate::weights::{Dtype, WeightError};

pub use console::Verbosity;
pub use device::DeviceError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// A checkpoint, or a place to write to.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// A model of the Hub.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// A tokenizer file.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A file of text.
    #[error(transparent)]
    Data(#[from] DataError),
    /// What is asked of the base cannot be done.
    #[error(transparent)]
    Study(#[from] StudyError),
    /// The device cannot be had.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The record breaks a rule.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A figure could not be drawn.
    #[error(transparent)]
    Figure(#[from] FigureError),
    /// Windows longer than the base's positions.
    #[error(
        "--seq-length {seq_length} exceeds max_position_embeddings {max_position_embeddings} of the base less {decode_tokens} tokens to decode"
    )]
    SequenceTooLong {
        /// Tokens per window asked for.
        seq_length: usize,
        /// Positions of the base.
        max_position_embeddings: usize,
        /// Tokens decoded behind a window when timing.
        decode_tokens: usize,
    },
    /// A base without data to train on: the built-in language has its own vocabulary.
    #[error("--base {base:?} needs --data: the built-in language is written in the vocabulary of the built-in base")]
    BaseWithoutData {
        /// The directory given.
        base: std::path::PathBuf,
    },
    /// A base of the other format.
    #[error(
        "--base {base:?} is a GGUF file, expected a Hugging Face directory; to make one: deepwide grow --dtype float32 {base:?} DIR"
    )]
    BaseIsGguf {
        /// The file given.
        base: std::path::PathBuf,
    },
    /// A base that may be on the hub and is not here.
    #[error("--base {base:?} does not exist: compare takes a local directory, not an id on the hub")]
    BaseNotLocal {
        /// The path given.
        base: std::path::PathBuf,
    },
    /// A number of the command line that must be positive is zero.
    #[error("--{option} is 0, expected at least 1")]
    ZeroOption {
        /// The option, without dashes.
        option: &'static str,
    },
    /// The output folder cannot be made or written to.
    #[error("--out {out:?}: {path:?} is not a folder that can be written to")]
    OutNotWritable {
        /// The path given.
        out: std::path::PathBuf,
        /// The part of it that exists.
        path: std::path::PathBuf,
    },
    /// The training windows would not fit in memory.
    #[error("the budget takes {num_windows} windows of fresh text, expected at most {most}")]
    TooManyWindows {
        /// Windows that the control would see.
        num_windows: u128,
        /// What is allowed.
        most: u128,
    },
    /// Something that cannot be measured.
    #[error(transparent)]
    Bench(#[from] bench::BenchError),
    /// A growth plan that cannot be carried out.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The same, and an option has asked for it.
    #[error("{option}: {source}")]
    Option {
        /// The option with its value.
        option: String,
        /// What is wrong with it.
        source: PlanError,
    },
    /// A mergekit file.
    #[error(transparent)]
    Merge(Box<MergeError>),
    /// A mergekit file says itself how to grow.
    #[error("{option} beside {path:?}: expected it alone, for the file says how to grow")]
    OptionBesideMerge {
        /// The option.
        option: &'static str,
        /// The file.
        path: std::path::PathBuf,
    },
    /// Only a mergekit file is carried out as mergekit does.
    #[error("{option} beside {base:?}: expected it with a mergekit file alone")]
    OptionBesideBase {
        /// The option.
        option: &'static str,
        /// The base.
        base: String,
    },
    /// Neither growth nor another form is asked for.
    #[error(
        "nothing to do: expected --dus, --stack, --identity-blocks, --moe or --granularity, or another --dtype, --out-type or --moe-layout"
    )]
    NothingToDo,
    /// An option of the other format.
    #[error("{option} beside --out-type gguf: expected it with Hugging Face's format alone")]
    OptionBesideGguf {
        /// The option.
        option: &'static str,
    },
    /// Only a normal router has a standard deviation to choose.
    #[error("--router-std is for --router normal")]
    RouterStdBesideRouter,
    /// The text that comes with the program is English.
    #[error(
        "the text that --check reads by default does not suit the tokenizer ({source}): expected --check-text FILE"
    )]
    DefaultCheckText {
        /// What the tokenizer said.
        source: TokenizerError,
    },
    /// More experts than anybody means.
    #[error("the result would have {found} experts per layer, expected at most {most}")]
    TooManyExperts {
        /// Experts of the result.
        found: usize,
        /// The limit.
        most: usize,
    },
    /// More layers than anybody means.
    #[error("the result would have {num_layers} layers, expected at most {most} (--force takes more)")]
    TooDeep {
        /// Layers of the result.
        num_layers: usize,
        /// The limit.
        most: usize,
    },
    /// Only a warning, had it not been for `--strict`.
    #[error("{warning} (refused because of --strict)")]
    Strict {
        /// The warning.
        warning: String,
    },
    /// A hidden router is made of prompts.
    #[error("--router hidden needs --prompts, a file with the prompt of one expert a line")]
    HiddenWithoutPrompts,
    /// Prompts are for a hidden router.
    #[error("--prompts is for --router hidden")]
    PromptsWithoutHidden,
    /// Every expert needs a prompt.
    #[error("{path:?} has {found} prompts, expected {expected}, a line an expert")]
    PromptCount {
        /// The file.
        path: std::path::PathBuf,
        /// Lines in it.
        found: usize,
        /// Experts.
        expected: usize,
    },
    /// A prompt without a token says nothing.
    #[error("a prompt of expert {expert} has no token, expected at least one")]
    EmptyPrompt {
        /// The expert.
        expert: usize,
    },
    /// A text to check with has too little in it.
    #[error("the text of --check has {found} tokens, expected at least 2")]
    CheckTextTooShort {
        /// Tokens in it.
        found: usize,
    },
    /// The tokenizer knows words that the model does not.
    #[error("the tokenizer gives id {id}, expected ids below vocab_size {vocab_size}")]
    IdBeyondVocabulary {
        /// The id.
        id: u32,
        /// Rows of the embeddings.
        vocab_size: usize,
    },
    /// A growth that should have preserved the function did not.
    #[error("growth was to preserve the function, but a logit moved by {max_abs_logit:.3e}")]
    NotPreserved {
        /// The largest difference of a logit.
        max_abs_logit: f64,
        /// The plan and all that the check measured.
        summary: Box<Value>,
    },
    /// Models that are to be merged do not mean the same by an id.
    #[error(
        "the vocabularies of {name:?} and {parent:?} differ at id {id}: {found:?} and {expected:?}, expected one tokenizer"
    )]
    VocabulariesDiffer {
        /// A model, as it was named.
        name: String,
        /// The one whose tokenizer the result would have.
        parent: String,
        /// The smallest such id.
        id: u32,
        /// What it means in the one.
        found: String,
        /// What it means in the other.
        expected: String,
    },
    /// A signal came while it wrote.
    #[error("stopped by signal {signal}: {out:?} is as it was before")]
    Stopped {
        /// The signal.
        signal: i32,
        /// What was to be written.
        out: std::path::PathBuf,
    },
    /// A signal came when all was written and not all checked.
    #[error("stopped by signal {signal} during --check: {out:?} is written whole, and not checked")]
    CheckStopped {
        /// The signal.
        signal: i32,
        /// What was written.
        out: std::path::PathBuf,
    },
    /// A checkpoint is not what its receipt says.
    #[error("{path:?} is not what its receipt says: {}", .faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("; "))]
    NotVerified {
        /// The directory.
        path: std::path::PathBuf,
        /// How many files the receipt names.
        num_files: usize,
        /// What differs.
        faults: Vec<Fault>,
    },
    /// A file of text could not be read.
    #[error("cannot read {path:?}: {source}")]
    Read {
        /// The path.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A result could not be printed.
    #[error("cannot write to stdout: {source}")]
    Stdout {
        /// What the system said.
        source: std::io::Error,
    },
    /// A result could not be written.
    #[error("cannot write {path:?}: {source}")]
    Write {
        /// The path.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl From<MergeError> for CliError {
    fn from(error: MergeError) -> Self {
        Self::Merge(Box::new(error))
    }
}

impl CliError {
    /// The exit code: 1 run-time failure, 2 usage, 3 bad or unsupported configuration or file, 4 input not found or not
    /// given by the Hub, 5 a check failed, 6 too large for the memory.
    pub fn code(&self) -> u8 {
        match self {
            Self::BaseIsGguf { .. }
            | Self::Plan(_)
            | Self::Option { .. }
            | Self::Merge(_)
            | Self::Strict { .. }
            | Self::TooDeep { .. }
            | Self::TooManyExperts { .. }
            | Self::DefaultCheckText { .. }
            | Self::PromptCount { .. }
            | Self::EmptyPrompt { .. }
            | Self::VocabulariesDiffer { .. }
            | Self::CheckTextTooShort { .. }
            | Self::IdBeyondVocabulary { .. } => 3,
            Self::NothingToDo
            | Self::OptionBesideGguf { .. }
            | Self::RouterStdBesideRouter
            | Self::OptionBesideMerge { .. }
            | Self::OptionBesideBase { .. }
            | Self::HiddenWithoutPrompts
            | Self::PromptsWithoutHidden => 2,
            Self::Bench(error) => error.code(),
            Self::NotPreserved { .. } | Self::NotVerified { .. } => 5,
            Self::BaseNotLocal { .. } => 4,
            Self::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => 4,
            Self::Read { .. } | Self::Stdout { .. } | Self::Stopped { .. } | Self::CheckStopped { .. } => 1,
            Self::Weights(error) | Self::Study(StudyError::Weights(error)) => match error.kind() {
                ErrorKind::NotFound => 4,
                ErrorKind::Invalid => 3,
                ErrorKind::Io => 1,
            },
            Self::Hub(error) => match error.kind() {
                ErrorKind::NotFound => 4,
                ErrorKind::Invalid => 3,
                ErrorKind::Io => 1,
            },
            Self::Tokenizer(error) => file_code(error.kind()),
            Self::Data(error) => file_code(error.kind()),
            Self::Study(StudyError::Diverged { .. } | StudyError::BrokenBase { .. })
            | Self::Device(DeviceError::Broken { .. })
            | Self::Record(_)
            | Self::Figure(_)
            | Self::Write { .. } => 1,
            Self::Device(DeviceError::Unknown { .. })
            | Self::BaseWithoutData { .. }
            | Self::ZeroOption { .. }
            | Self::OutNotWritable { .. } => 2,
            Self::Study(_) | Self::SequenceTooLong { .. } | Self::TooManyWindows { .. } => 3,
        }
    }
}

impl CliError {
    /// The failure as one JSON object; of a check that failed, beside what it found.
    fn to_json(&self, code: u8) -> Value {
        let mut object = match self {
            Self::NotPreserved { summary, .. } => Value::clone(summary),
            Self::NotVerified { num_files, faults, .. } => json!({"files": num_files, "faults": faults}),
            _ => json!({}),
        };
        object["error"] = json!({"code": code, "message": self.to_string()});
        object
    }
}

fn file_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::NotFound => 4,
        ErrorKind::Invalid => 3,
        ErrorKind::Io => 1,
    }
}

/// Prints a failure, on stderr as text or on stdout as one JSON object, and gives the exit code of the process.
/// After a signal, the code is that of the signal: what failed, failed because of it.
pub fn finish(result: Result<(), CliError>, json: bool) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = interrupt::exit_code().unwrap_or_else(|| error.code());
            // Where stdout is broken, the code says enough.
            if !json || output::print(&format!("{}\n", error.to_json(code))).is_err() {
                console::fail(format_args!("error: {error}"));
            }
            ExitCode::from(code)
        }
    }
}

/// `--dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DtypeArg {
    /// Single precision.
    Float32,
    /// IEEE half precision.
    Float16,
    /// The upper half of single precision.
    Bfloat16,
}

impl DtypeArg {
    fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Float16 => "float16",
            Self::Bfloat16 => "bfloat16",
        }
    }

    fn dtype(self) -> Dtype {
        match self {
            Self::Float32 => Dtype::Float32,
            Self::Float16 => Dtype::Float16,
            Self::Bfloat16 => Dtype::Bfloat16,
        }
    }
}

/// Parses a whole number that may not be negative, and says so.
fn not_negative(text: &str) -> Result<usize, String> {
    let number: i64 = text.parse().map_err(|_| format!("{text:?} is not a whole number"))?;
    usize::try_from(number).map_err(|_| format!("{number} is negative, expected 0 or more"))
}

/// Parses a finite number above 0.
fn positive_real(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err(format!("{text:?} is not a finite number above 0")),
    }
}

/// Parses a count that may be written as `3e12`.
fn count(text: &str) -> Result<u64, String> {
    let expected = |found: &dyn Display| format!("{found} is not a whole number of at least 1");
    match text.parse::<u64>() {
        Ok(0) => Err(expected(&0)),
        Ok(number) => Ok(number),
        Err(_) => match text.parse::<f64>() {
            Ok(number) if number >= 1.0 && number.fract() == 0.0 && number < u64::MAX as f64 => Ok(number as u64),
            _ => Err(expected(&format!("{text:?}"))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_overlap_is_called_negative() {
        assert_eq!(not_negative("-1").unwrap_err(), "-1 is negative, expected 0 or more");
        assert_eq!(not_negative("8").unwrap(), 8);
        assert!(not_negative("eight").unwrap_err().contains("\"eight\""));
    }

    #[test]
    fn a_learning_rate_is_finite_and_positive() {
        assert_eq!(positive_real("1e-3"), Ok(1e-3));
        for refused in ["0", "-1e-3", "nan", "inf", "fast"] {
            assert!(positive_real(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn large_counts_may_have_an_exponent() {
        assert_eq!(count("3e12").unwrap(), 3_000_000_000_000);
        assert_eq!(count("1024").unwrap(), 1024);
        for refused in ["0", "-5", "1.5", "1e-3", "many", "nan", "1e30"] {
            assert!(count(refused).is_err(), "{refused}");
        }
    }
}
