//! What can be wrong with the files of a Hugging Face directory together: one variant per rule.

use crate::error::{ErrorKind, InFile, cut, listed, quoted};
use crate::weights::{Dtype, TensorId};

/// A fault of a directory, its index, or a file of weights in it.
pub type HfError = InFile<HfFault>;

/// Why a Hugging Face directory is not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HfFault {
    /// The path is neither a directory nor a file that names one.
    #[error("is not a directory, expected one with config.json and model.safetensors")]
    NotADirectory,
    /// The directory holds an adapter and no weights of its own.
    #[error("is a {peft_type} adapter{}, expected a whole model: merge it into its base first (deepwide merge-lora)", of_base(.base))]
    Adapter {
        /// `peft_type` of `adapter_config.json`.
        peft_type: String,
        /// `base_model_name_or_path`.
        base: Option<String>,
    },
    /// The directory has no weights in a format that is read.
    #[error("has neither model.safetensors nor model.safetensors.index.json{beside}")]
    NoWeights {
        /// The formats it has instead, after a comma, or nothing.
        beside: &'static str,
    },
    /// A single file beside an index of other files.
    #[error("has both model.safetensors and an index that does not name it, expected one of them: remove the older")]
    AmbiguousWeights,
    /// The index is not JSON of the expected form.
    #[error("{}", cut(.0))]
    Malformed(serde_json::Error),
    /// The index lists more tensors than any real one.
    #[error("has {found} tensors, expected at most {limit}")]
    TooMany {
        /// Number of tensors.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// The index lists a tensor twice.
    #[error("defines tensor {} twice, expected once", quoted(.name))]
    DuplicateTensor {
        /// The tensor.
        name: String,
    },
    /// A shard's name would lead out of the directory.
    #[error("names shard {}, expected a plain file name", quoted(.shard))]
    UnsafeShardName {
        /// The name.
        shard: String,
    },
    /// Shards that the index names do not exist.
    #[error("names {missing} of {total} shards that do not exist: {}", listed(.names, *.missing))]
    MissingShard {
        /// The first of them, by name.
        names: Vec<String>,
        /// Number of missing shards.
        missing: usize,
        /// Number of shards in the index.
        total: usize,
    },
    /// A shard lacks a tensor that the index assigns to it.
    #[error("has no tensor {}, which the index assigns to it", quoted(.name))]
    NotInShard {
        /// The tensor.
        name: String,
    },
    /// A shard holds a tensor that the index does not list.
    #[error("holds tensor {}, which the index does not assign to it", quoted(.name))]
    NotInIndex {
        /// The tensor.
        name: String,
    },
    /// A shard holds a tensor that the index assigns to another.
    #[error("holds tensor {}, which the index assigns to {}", quoted(.name), quoted(.shard))]
    InOtherShard {
        /// The tensor.
        name: String,
        /// The shard that should hold it.
        shard: String,
    },
    /// The number of layers differs from the config's.
    #[error("holds {found} layers, expected {expected} by num_hidden_layers")]
    LayerCount {
        /// Highest layer plus 1.
        found: usize,
        /// `num_hidden_layers`.
        expected: usize,
    },
    /// An untied head beside `tie_word_embeddings`. Versions of transformers disagree on which of the two to use.
    #[error(
        "tie_word_embeddings is true, but lm_head.weight differs from model.embed_tokens.weight, expected no such tensor or tie_word_embeddings false"
    )]
    HeadNotTied,
    /// A tensor that the config calls for is missing.
    #[error("has no tensor {}, expected one{}", quoted(.name), or_tied(.name))]
    MissingTensor {
        /// The first missing tensor, in the order of the forward pass.
        name: String,
    },
    /// A tensor that a decoder of this config does not have. Dropping it could change the model.
    #[error("holds tensor {}, which a decoder of this config.json does not have", quoted(.name))]
    UnexpectedTensor {
        /// The tensor.
        name: String,
    },
    /// A weight of integers: the scales that would give them a meaning are missing.
    #[error("tensor {} is {found}, expected floating-point numbers: integers mean nothing without their scales", quoted(.name))]
    Integers {
        /// The tensor.
        name: String,
        /// Its type.
        found: Dtype,
    },
    /// The shape of a weight disagrees with the config.
    #[error("tensor {} has shape {}, expected {expected:?}, which is {}", quoted(.name), cut(&format!("{found:?}")), id.axes())]
    ShapeMismatch {
        /// The tensor.
        name: String,
        /// The weight in it.
        id: TensorId,
        /// Its shape.
        found: Vec<usize>,
        /// The shape by the config.
        expected: Vec<usize>,
    },
    /// The numbers of a weight are smaller than a byte.
    #[error("tensor {} has dtype {found}, expected a type of whole bytes", quoted(.name))]
    UnsupportedDtype {
        /// The tensor.
        name: String,
        /// Its type.
        found: ::safetensors::Dtype,
    },
}

impl HfError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self.fault {
            HfFault::NoWeights { .. } | HfFault::MissingShard { .. } => ErrorKind::NotFound,
            _ => ErrorKind::Invalid,
        }
    }
}

/// An alternative to a missing head.
fn or_tied(name: &str) -> &'static str {
    if name == "lm_head.weight" { " or tie_word_embeddings true" } else { "" }
}

fn of_base(base: &Option<String>) -> String {
    base.as_ref().map_or_else(String::new, |base| format!(" of {}", quoted(base)))
}
