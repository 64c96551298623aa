//! What is worth knowing of a checkpoint and makes it no less sound.

use std::fmt;
use std::path::PathBuf;

use crate::error::{cut, quoted};
use crate::weights::Dtype;

/// Something that was found, and passed over, when a checkpoint was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// The index announces another size of all tensors than they have. Nothing relies on it.
    TotalSize {
        /// The index.
        path: PathBuf,
        /// `metadata.total_size`, in bytes.
        found_bytes: u64,
        /// The size of all tensors.
        expected_bytes: u64,
    },
    /// `config.json` declares another number format than most bytes of the tensors have. The tensors decide.
    DeclaredDtype {
        /// The `config.json`.
        path: PathBuf,
        /// What it declares.
        declared: String,
        /// What most bytes are.
        stored: Dtype,
    },
    /// A key that is not used holds NaN or an infinity, which Python writes and JSON does not have. It is left out.
    NonFiniteKey {
        /// The `config.json`.
        path: PathBuf,
        /// The key at the top level.
        key: String,
    },
    /// `auto_map` names Python code. Nothing here runs any.
    RemoteCode {
        /// The `config.json`.
        path: PathBuf,
    },
    /// A GGUF file lies beside the safetensors that were named.
    GgufAside {
        /// The first such file by name.
        path: PathBuf,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::TotalSize { path, found_bytes, expected_bytes } => {
                write!(f, "{path:?} says total_size {found_bytes}, but the tensors have {expected_bytes} bytes")
            }
            Self::DeclaredDtype { path, declared, stored } => {
                write!(f, "{path:?} declares dtype {}, but most weights are {stored}: they are taken as they are", {
                    cut(declared)
                })
            }
            Self::NonFiniteKey { path, key } => {
                write!(f, "{path:?} has NaN or an infinity in {}, which is not used: the key is left out", quoted(key))
            }
            Self::RemoteCode { path } => write!(f, "{path:?} has auto_map: the Python code that it names is not run"),
            Self::GgufAside { path } => {
                write!(f, "{path:?} lies beside safetensors, which are read: name the file itself to read it instead")
            }
        }
    }
}
