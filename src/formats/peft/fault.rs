//! Faults of an adapter directory: one variant per rule.

use serde_json::Value;

use crate::error::{ErrorKind, InFile, cut, quoted};
use crate::lora::LoraError;
use crate::weights::Dtype;

/// A fault of a file of an adapter.
pub type PeftError = InFile<PeftFault>;

/// Why an adapter is not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeftFault {
    /// The config is not JSON of the expected form.
    #[error("{}", cut(.0))]
    Malformed(#[from] serde_json::Error),
    /// The config has a key twice.
    #[error("has the key {} twice, expected once", quoted(.key))]
    RepeatedKey {
        /// The key.
        key: String,
    },
    /// A setting that would change what the adapter computes in a way that is not supported.
    #[error("{key} is {}, expected {expected}", cut(.found))]
    Unsupported {
        /// The key.
        key: &'static str,
        /// Its value.
        found: Value,
        /// The values that are supported.
        expected: &'static str,
    },
    /// The config asks for updates that the decoder cannot have.
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// A factor that the config asks for is missing.
    #[error("has no tensor {}, expected one by adapter_config.json", quoted(.name))]
    MissingTensor {
        /// The first missing tensor.
        name: String,
    },
    /// A tensor that is no factor of a target. Dropping it could change the model.
    #[error("holds tensor {}, which adapter_config.json does not ask for", quoted(.name))]
    UnexpectedTensor {
        /// The tensor.
        name: String,
    },
    /// The shape of a factor disagrees with its rank or with the decoder.
    #[error("tensor {} has shape {}, expected {expected:?}, which is {axes}", quoted(.name), cut(&format!("{found:?}")))]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape by rank and decoder.
        expected: Vec<usize>,
        /// Names of its axes.
        axes: &'static str,
    },
    /// A factor of integers.
    #[error("tensor {} is {found}, expected floating-point numbers", quoted(.name))]
    Dtype {
        /// The tensor.
        name: String,
        /// Its type.
        found: Dtype,
    },
}

impl PeftError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}
