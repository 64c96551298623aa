//! Findings about a checkpoint that are no errors.

use std::fmt;

use crate::error::{InFile, cut, quoted};
use crate::weights::Dtype;

/// A finding about a file of a checkpoint.
pub type Notice = InFile<Remark>;

/// Something that was found, and passed over, when a checkpoint was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remark {
    /// The index announces another size of all tensors than they have. Nothing relies on it.
    TotalSize {
        /// `metadata.total_size`, in bytes.
        found_bytes: u64,
        /// The size of all tensors.
        expected_bytes: u64,
    },
    /// The declared number format is not that of most bytes of the tensors. The tensors decide.
    DeclaredDtype {
        /// The declared format.
        declared: String,
        /// The format of most bytes.
        stored: Dtype,
    },
    /// A key that is not read holds NaN or an infinity, which Python writes and JSON does not have. It is dropped.
    NonFiniteKey {
        /// The key at the top level.
        key: String,
    },
    /// A setting that transformers ignores.
    ReadAs {
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
        /// The value that is used.
        read_as: &'static str,
    },
    /// A setting that growth copies and the decoder does not compute.
    Unmodelled {
        /// The key.
        key: String,
        /// Its value.
        found: String,
    },
    /// The names of the tensors have an unusual prefix.
    TensorPrefix {
        /// The prefix in place of `model.`.
        prefix: String,
    },
    /// `auto_map` names Python code. None is run.
    RemoteCode,
    /// A GGUF file beside the safetensors that were named.
    GgufAside,
    /// A key that is not known.
    UnknownKey {
        /// The key.
        key: String,
    },
    /// An adapter holds a copy of a matrix of its base.
    BaseCopy {
        /// The matrix.
        name: String,
    },
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::TotalSize { found_bytes, expected_bytes } => {
                write!(f, "total_size is {found_bytes}, but the tensors have {expected_bytes} bytes")
            }
            Self::DeclaredDtype { declared, stored } => {
                write!(f, "dtype is {}, but most weights are {stored}: each is read as it is stored", cut(declared))
            }
            Self::NonFiniteKey { key } => {
                write!(f, "{} holds NaN or an infinity and is not used: it is dropped", quoted(key))
            }
            Self::ReadAs { key, found, read_as } => write!(f, "{key} is {}, read as {read_as}", cut(found)),
            Self::Unmodelled { key, found } => {
                write!(f, "{key} is {}, which is copied but cannot be computed", cut(found))
            }
            Self::TensorPrefix { prefix } if prefix.is_empty() => {
                f.write_str("tensor names lack the prefix \"model.\"")
            }
            Self::TensorPrefix { prefix } => {
                write!(f, "tensor names begin with {}, read as \"model.\"", quoted(prefix))
            }
            Self::UnknownKey { key } => write!(f, "{} is not known, and not used", quoted(key)),
            Self::BaseCopy { name } => {
                write!(f, "holds a copy of {}, which is not read: the base's counts", quoted(name))
            }
            Self::RemoteCode => f.write_str("auto_map names Python code, which is not run"),
            Self::GgufAside => {
                f.write_str("lies beside safetensors, which are read: give the path of this file to read it instead")
            }
        }
    }
}
