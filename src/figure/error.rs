//! Why a study could not be drawn.

use crate::error::ErrorKind;
use crate::report::RecordError;

/// Why a study could not be drawn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FigureError {
    /// The record breaks a rule.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// plotters failed.
    #[error("the figure could not be drawn: {source}")]
    Drawing {
        /// The error of plotters.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The pixels could not be encoded.
    #[error("the figure could not be encoded as PNG: {0}")]
    Encoding(#[from] png::EncodingError),
}

impl FigureError {
    /// The kind of failure: all of them are faults of this program or its libraries.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Io
    }
}
