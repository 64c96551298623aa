//! Why a weight could not be read or converted.

use std::path::PathBuf;

use crate::config::ConfigError;
use crate::error::{ErrorKind, FileError, quoted};
use crate::weights::{Dtype, TensorId};

/// Why a weight could not be read or converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightError {
    /// A file could not be read, or the file that the weight is streamed to could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A block of quantized numbers decodes to an infinity or NaN.
    #[error("{path:?}: tensor {} decodes to {value} at index {index}, expected finite numbers", quoted(.name))]
    Undecodable {
        /// The file.
        path: PathBuf,
        /// The tensor, as the file names it.
        name: String,
        /// Row-major index of the first such number.
        index: u64,
        /// The number.
        value: f32,
    },
    /// The config calls for a computation that the decoder does not have.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The operation needs another type of numbers.
    #[error("{id} is {found}, expected {expected}")]
    NotComputable {
        /// The weight.
        id: TensorId,
        /// Its type.
        found: Dtype,
        /// The types that would do.
        expected: &'static str,
    },
    /// A finite number would become infinite in a type of smaller range.
    #[error("{id} holds {value} at index {index}, beyond the range of {dtype}")]
    Overflow {
        /// The weight.
        id: TensorId,
        /// Row-major index of the first such number.
        index: usize,
        /// The number.
        value: f64,
        /// The type to write.
        dtype: Dtype,
    },
    /// An infinity or NaN.
    #[error("{id} holds {value} at index {index}, expected a finite number")]
    NotFinite {
        /// The weight.
        id: TensorId,
        /// Row-major index of the first such number.
        index: usize,
        /// The number.
        value: f64,
    },
    /// A number that the blocks to write cannot hold.
    #[error("{id} holds {found}, which {file_type} cannot represent")]
    NotWritable {
        /// The weight.
        id: TensorId,
        /// The first such number.
        found: f32,
        /// The number type of the file.
        file_type: &'static str,
    },
}

impl WeightError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::File(error) => error.kind(),
            _ => ErrorKind::Invalid,
        }
    }
}
