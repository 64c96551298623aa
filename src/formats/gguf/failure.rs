//! Why the bytes of a GGUF file could not be read, before the path of the file is known.

use std::io;
use std::path::Path;

use super::GgufFault;
use crate::error::{FileError, FileFault, InFile};
use crate::formats::CheckpointError;

/// Why the bytes of a file could not be read.
#[derive(Debug)]
pub(super) enum Failure {
    /// The operating system failed.
    Io(io::Error),
    /// The file breaks a rule.
    Fault(Box<GgufFault>),
}

impl From<GgufFault> for Failure {
    fn from(fault: GgufFault) -> Self {
        Self::Fault(Box::new(fault))
    }
}

impl Failure {
    /// Attributes a failure to the file at `path`, for `map_err`.
    pub fn at(path: &Path) -> impl Fn(Self) -> CheckpointError + '_ {
        move |failure| match failure {
            Self::Fault(fault) => InFile::new(path, fault).into(),
            // Nothing is read beyond what the file's size allows.
            Self::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                FileError::new(path, FileFault::Changed).into()
            }
            Self::Io(error) => FileError::io(path)(error).into(),
        }
    }
}
