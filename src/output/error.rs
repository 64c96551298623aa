//! Why an output could not be written, or a written one not be verified.

use std::io;
use std::path::PathBuf;

use crate::error::{ErrorKind, FileError, InFile, cut, quoted};
use crate::output::manifest::Mismatch;
use crate::weights::WeightError;

/// Why an output could not be written, or could not be verified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The weights to write could not be read or converted.
    #[error(transparent)]
    Weights(WeightError),
    /// A receipt breaks a rule.
    #[error(transparent)]
    Receipt(#[from] InFile<ReceiptFault>),
    /// The target is a file, or a directory that is not empty.
    #[error("{path:?} exists, expected nothing or an empty directory")]
    Exists {
        /// The target.
        path: PathBuf,
    },
    /// The target does not exist and has the name of a weight file.
    #[error("{path:?} looks like a file name, expected a directory: several files are written into it")]
    NamedAsFile {
        /// The target.
        path: PathBuf,
    },
    /// The target holds something that deepwide did not write.
    #[error("{path:?} holds {}, which no deepwide.json there names: expected only files written by deepwide", quoted(.foreign))]
    NotOurs {
        /// The target.
        path: PathBuf,
        /// A name in it.
        foreign: String,
    },
    /// The target holds files of deepwide that were modified since, perhaps by training: no command makes them again.
    #[error("{path:?} was modified after deepwide wrote it, and what it holds now may exist nowhere else: {}", list(.mismatches))]
    Modified {
        /// The target.
        path: PathBuf,
        /// How its files differ from the receipt.
        mismatches: Vec<Mismatch>,
    },
    /// The output to replace changed after it was checked.
    #[error("{path:?} changed during the run and is not replaced: see {}", quoted(.name))]
    Changed {
        /// The target.
        path: PathBuf,
        /// The first entry that changed.
        name: String,
    },
    /// The output is complete, but could not be given its name.
    #[error(
        "{error}; the new output is complete in {complete:?}: rename it before the next run to {path:?} removes it"
    )]
    NotRenamed {
        /// The target.
        path: PathBuf,
        /// The directory that holds the output.
        complete: PathBuf,
        /// Why it keeps that name.
        error: Box<OutputError>,
    },
    /// An output moved aside for the one that replaces it, which could not take its name, and could not be put back.
    #[error("{path:?}: {error}; the old output is {aside:?} until the next run to {path:?} puts it back")]
    MovedAside {
        /// The target.
        path: PathBuf,
        /// The directory that holds the old output.
        aside: PathBuf,
        /// Why the new output could not take its name.
        error: io::Error,
    },
    /// The directory to verify has no receipt.
    #[error("{path:?} has no deepwide.json: deepwide did not write it, so there is nothing to compare it with")]
    NoReceipt {
        /// The directory.
        path: PathBuf,
    },
    /// Another process is writing to the target.
    #[error("another process is writing {path:?}: it holds {partial:?}")]
    Busy {
        /// The target.
        path: PathBuf,
        /// The directory that the other process builds.
        partial: PathBuf,
    },
    /// The target is one of the inputs, contains one, or lies in one.
    #[error("{path:?} is, contains or lies in the input {input:?}, expected a separate directory")]
    MeetsInput {
        /// The target.
        path: PathBuf,
        /// The input.
        input: PathBuf,
    },
    /// The disk has too little free space.
    #[error("{path:?} needs {needed_bytes} bytes, but only {free_bytes} are free there")]
    NoSpace {
        /// The target.
        path: PathBuf,
        /// Size of the output.
        needed_bytes: u64,
        /// Free space.
        free_bytes: u64,
    },
}

/// What can be wrong with a receipt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptFault {
    /// The text is not the JSON of a receipt.
    #[error("{}", cut(.0))]
    Malformed(serde_json::Error),
    /// A name in it would lead out of the directory.
    #[error("names file {}, expected a plain file name", quoted(.name))]
    UnsafeFileName {
        /// The name.
        name: String,
    },
}

impl From<WeightError> for OutputError {
    fn from(error: WeightError) -> Self {
        match error {
            WeightError::File(error) => Self::File(error),
            _ => Self::Weights(error),
        }
    }
}

impl OutputError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::File(error) => error.kind(),
            Self::Weights(error) => error.kind(),
            Self::NotRenamed { error, .. } => error.kind(),
            Self::NoReceipt { .. } => ErrorKind::NotFound,
            Self::Receipt(_)
            | Self::Exists { .. }
            | Self::NamedAsFile { .. }
            | Self::NotOurs { .. }
            | Self::Modified { .. }
            | Self::Changed { .. }
            | Self::MeetsInput { .. } => ErrorKind::Invalid,
            Self::MovedAside { .. } | Self::Busy { .. } | Self::NoSpace { .. } => ErrorKind::Io,
        }
    }
}

fn list(mismatches: &[Mismatch]) -> String {
    mismatches.iter().map(Mismatch::to_string).collect::<Vec<_>>().join("; ")
}
