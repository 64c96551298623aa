//! Why a study cannot be planned, run or written.

use std::path::PathBuf;

use crate::config::ConfigError;
use crate::data::DataError;
use crate::error::{ErrorKind, FileError, InFile};
use crate::figure::FigureError;
use crate::formats::CheckpointError;
use crate::growth::PlanError;
use crate::profile::matching::MatchError;
use crate::report::RecordError;
use crate::tokenizer::TokenizerError;
use crate::train::TrainError;
use crate::weights::WeightError;

/// Why a study cannot be planned, run or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StudyError {
    /// A base of one's own without text: its vocabulary is not that of the built-in language.
    #[error("{base:?} needs text of its own: the built-in language is written in the vocabulary of the built-in base")]
    NoData {
        /// The base.
        base: PathBuf,
    },
    /// The base already has experts.
    #[error("the base has {num_local_experts} experts, expected a dense decoder")]
    SparseBase {
        /// Experts per layer of the base.
        num_local_experts: usize,
    },
    /// The base has no positions for a window and the tokens decoded after it.
    #[error(
        "a window of {seq_length} tokens and {decode_tokens} decoded tokens exceed max_position_embeddings {max_position_embeddings} of the base"
    )]
    WindowTooLong {
        /// Tokens per window.
        seq_length: usize,
        /// Tokens decoded per timing.
        decode_tokens: usize,
        /// Positions of the base.
        max_position_embeddings: usize,
    },
    /// The budget is too small for one update of some arm.
    #[error("the budget of {budget_flops} training FLOPs is too small: one update of {arm} takes {update_flops}")]
    BudgetTooSmall {
        /// The arm's name.
        arm: String,
        /// Training FLOPs given.
        budget_flops: u64,
        /// Training FLOPs of one update.
        update_flops: u64,
    },
    /// The budget pays for more text than fits into memory.
    #[error("the budget needs {found} windows of fresh text, expected at most {limit}")]
    BudgetTooLarge {
        /// Windows of one epoch.
        found: u128,
        /// The limit.
        limit: u128,
    },
    /// A text does not fill a window to train on and one to hold out.
    #[error(
        "{path:?} has {found} tokens, expected at least {expected}: a window of {seq_length} to train on and one to hold out"
    )]
    TooLittleText {
        /// The file.
        path: PathBuf,
        /// Its tokens.
        found: usize,
        /// `2 * seq_length + 1`.
        expected: usize,
        /// Tokens per window.
        seq_length: usize,
    },
    /// An overlap is given twice.
    #[error("overlap m = {overlap} is given twice")]
    RepeatedOverlap {
        /// The overlap.
        overlap: usize,
    },
    /// The loss of the base is infinite or not a number.
    #[error("the held-out loss of the base is {loss}: its weights are broken")]
    BrokenBase {
        /// The loss.
        loss: f64,
    },
    /// A quantity became infinite or not a number.
    #[error("the {what} of {arm} is {value} at step {step}: training diverged, try a lower learning rate")]
    Diverged {
        /// The arm's name.
        arm: String,
        /// The step.
        step: usize,
        /// The quantity.
        what: &'static str,
        /// Its value.
        value: f64,
    },
    /// The results cannot be written here.
    #[error("{path:?}: {existing:?} is not a directory that can be written to")]
    NotWritable {
        /// The directory for results.
        path: PathBuf,
        /// The part of its path that exists.
        existing: PathBuf,
    },
    /// The directory holds the results of another study.
    #[error("{path:?} holds another study: {difference}")]
    OtherStudy {
        /// The directory for results.
        path: PathBuf,
        /// The first field of the record that differs, with both values.
        difference: String,
    },
    /// The directory holds runs of another study that was interrupted.
    #[error("{path:?} holds runs of an interrupted study with other settings or of another build: {run:?}")]
    OtherRuns {
        /// The directory for results.
        path: PathBuf,
        /// The record of a run.
        run: String,
    },
    /// The directory holds a record that deepwide did not write.
    #[error(transparent)]
    NotAStudy(InFile<RecordError>),
    /// The base has a shape that cannot be computed.
    #[error(transparent)]
    NotComputable(InFile<ConfigError>),
    /// Growth refuses the plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The solver refuses the base.
    #[error(transparent)]
    Match(#[from] MatchError),
    /// Training refuses its settings.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The base cannot be opened.
    #[error(transparent)]
    Base(#[from] CheckpointError),
    /// The tokenizer of the base cannot be opened.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The text cannot be read or cut into windows.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A file of results cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A weight cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// The results break a rule of the record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The figures cannot be drawn.
    #[error(transparent)]
    Figure(#[from] FigureError),
}

impl StudyError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoData { .. }
            | Self::SparseBase { .. }
            | Self::WindowTooLong { .. }
            | Self::BudgetTooSmall { .. }
            | Self::BudgetTooLarge { .. }
            | Self::TooLittleText { .. }
            | Self::RepeatedOverlap { .. }
            | Self::NotWritable { .. }
            | Self::OtherStudy { .. }
            | Self::OtherRuns { .. }
            | Self::NotAStudy(_)
            | Self::NotComputable(_)
            | Self::Match(_)
            | Self::Train(_) => ErrorKind::Invalid,
            Self::BrokenBase { .. } | Self::Diverged { .. } | Self::Record(_) => ErrorKind::Io,
            Self::Plan(error) => error.kind(),
            Self::Base(error) => error.kind(),
            Self::Tokenizer(error) => error.kind(),
            Self::Data(error) => error.kind(),
            Self::File(error) => error.kind(),
            Self::Weights(error) => error.kind(),
            Self::Figure(error) => error.kind(),
        }
    }
}
