//! Why an evaluation failed.

use std::path::PathBuf;

use crate::data::source::SourceError;
use crate::error::{ErrorKind, FileError, closest, cut, listed, quoted};
use crate::generate::GenerateError;
use crate::hub::HubError;
use crate::tokenizer::{ChatTemplateError, TokenizerError};

/// The known name that a misspelt one probably means, as a part of a message.
fn suggestion(found: &str, known: &str) -> String {
    closest(found, known.split(", ")).map_or_else(String::new, |name| format!("; did you mean {name}?"))
}

/// Why an evaluation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A name is neither a task nor a group.
    #[error("{} is neither a task nor a group{}, expected some of: {known}", quoted(.found), suggestion(.found, .known))]
    UnknownTask {
        /// The name.
        found: String,
        /// All names.
        known: String,
    },
    /// No file has a split of a data set.
    #[error("{task} needs the {split} split of {data_set}, and {directory:?} has no file of it; looked for {expected}")]
    NoData {
        /// The task.
        task: String,
        /// The split.
        split: &'static str,
        /// The data set on the hub.
        data_set: String,
        /// The directory of data.
        directory: PathBuf,
        /// Names that a file may have.
        expected: String,
    },
    /// Several tasks lack data.
    #[error("{} tasks lack data: {}; {first}", .tasks.len(), listed(first_of(.tasks), .tasks.len()))]
    NoDataOfTasks {
        /// The tasks.
        tasks: Vec<String>,
        /// What the first one lacks.
        first: Box<EvalError>,
    },
    /// Several files could be a split.
    #[error("several files could be the {split} split of {task}, expected one: {found:?}")]
    AmbiguousData {
        /// The task.
        task: String,
        /// The split.
        split: &'static str,
        /// The files.
        found: Vec<PathBuf>,
    },
    /// The hub does not provide a split.
    #[error("{task}: {source}")]
    Hub {
        /// The task.
        task: String,
        /// The reason.
        source: HubError,
    },
    /// A file of data cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// An item breaks a rule of its task.
    #[error("{path:?}: item {index} of {task}: {fault}")]
    BadItem {
        /// Its file.
        path: PathBuf,
        /// Its place in the split, from 0.
        index: usize,
        /// The task.
        task: String,
        /// The rule.
        fault: ItemFault,
    },
    /// A split is empty.
    #[error("the {split} split of {task} has no items, expected at least one")]
    NoItems {
        /// The task.
        task: String,
        /// The split.
        split: &'static str,
    },
    /// A task is asked for twice, with different numbers of examples.
    #[error("{task} is asked for with {} and with {} examples, expected one number: name it once, or give --num_fewshot", .shots[0], .shots[1])]
    TwoNumbersOfExamples {
        /// The task.
        task: String,
        /// The numbers.
        shots: [usize; 2],
    },
    /// A prompt has more examples than there are to draw from.
    #[error("{task}: {needed} rows are drawn for {num_fewshot} examples, but there are only {available}")]
    TooFewExamples {
        /// The task.
        task: String,
        /// Examples of a prompt.
        num_fewshot: usize,
        /// Rows that are drawn: one more if the item itself may be among them.
        needed: usize,
        /// Items of the split.
        available: usize,
    },
    /// A continuation has no token of its own behind its context.
    #[error("the continuation {} has no token after its context, expected at least one", quoted(.continuation))]
    NothingScored {
        /// The continuation.
        continuation: String,
    },
    /// A continuation is longer than the context length.
    #[error("a continuation has {num_tokens} tokens, expected at most the {max_length} of the model's context")]
    LongContinuation {
        /// Its tokens.
        num_tokens: usize,
        /// The context length.
        max_length: usize,
    },
    /// No context is left for a prompt.
    #[error(
        "answers have up to {max_tokens} tokens, expected a model with a context of more than that; found {max_length}"
    )]
    NoRoomToAnswer {
        /// Tokens of an answer.
        max_tokens: usize,
        /// The context length.
        max_length: usize,
    },
    /// A setting of `generation_config.json` is wrong.
    #[error("generation_config.json has {key} {found}, expected {expected}")]
    GenerationConfig {
        /// The setting.
        key: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// The tokenizer has more ids than the model.
    #[error("the tokenizer gives id {id}, expected below vocab_size {vocab_size} of the model")]
    IdBeyondVocabulary {
        /// The id.
        id: u32,
        /// The ids of the model.
        vocab_size: usize,
    },
    /// The tokenizer cannot encode a text.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The chat template refuses a prompt.
    #[error("{task}: item {index}: {source}")]
    Chat {
        /// The task.
        task: String,
        /// The item, from 0.
        index: usize,
        /// The reason.
        source: ChatTemplateError,
    },
    /// A text cannot be generated.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process has a log open.
    #[error("{path:?}: another process writes this log, expected one at a time")]
    LogInUse {
        /// The log.
        path: PathBuf,
    },
    /// A log holds answers of another model.
    #[error("{path:?}: holds answers of another model, precision, device or version, expected {expected}; found {}", cut(.found))]
    OtherModel {
        /// The log.
        path: PathBuf,
        /// The fingerprint in it.
        found: String,
        /// That of this run.
        expected: String,
    },
    /// A text has too few tokens for a window.
    #[error("the text has {num_tokens} tokens, expected at least {least}")]
    ShortText {
        /// Its tokens.
        num_tokens: usize,
        /// Tokens of the shortest text of which one is scored.
        least: usize,
    },
    /// The run was stopped from outside.
    #[error("stopped")]
    Stopped,
    /// A line of a log is not an answer.
    #[error("{path:?}: line {line}: {reason}, expected an answer")]
    BadLog {
        /// The log.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The parser's message.
        reason: String,
    },
}

/// Faults of an item.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ItemFault {
    /// A field is absent.
    #[error("found no field {field:?}, expected one")]
    Missing {
        /// Its name.
        field: &'static str,
    },
    /// A field has another type.
    #[error("{field:?} is {}, expected {expected}", cut(.found))]
    Type {
        /// Its name.
        field: &'static str,
        /// Its value or type.
        found: String,
        /// The expectation.
        expected: &'static str,
    },
    /// The right answer is none of the choices.
    #[error("{field:?} is {}, expected one of the {num_choices} choices", cut(.found))]
    Answer {
        /// The field that names it.
        field: &'static str,
        /// Its value.
        found: String,
        /// The number of choices.
        num_choices: usize,
    },
}

/// The first tasks, for a message.
fn first_of(tasks: &[String]) -> &[String] {
    &tasks[..tasks.len().min(3)]
}

impl EvalError {
    /// Attributes an error of the hub to a task, for `map_err`.
    pub(super) fn of_hub(task: &str) -> impl FnOnce(HubError) -> Self {
        move |source| Self::Hub { task: task.to_owned(), source }
    }

    /// Whether a split is not there, so that others may be missing for the same reason.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, Self::NoData { .. } | Self::Hub { source: HubError::Offline(_), .. })
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoData { .. } => ErrorKind::NotFound,
            Self::NoDataOfTasks { first, .. } => first.kind(),
            Self::Hub { source, .. } => source.kind(),
            Self::Source(error) => error.kind(),
            Self::Tokenizer(error) => error.kind(),
            Self::File(error) => error.kind(),
            Self::Generate(error) => error.kind(),
            Self::LogInUse { .. } => ErrorKind::Io,
            _ => ErrorKind::Invalid,
        }
    }
}
