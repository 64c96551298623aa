//! A checkpoint from its headers: format, shape, parameters, number formats, tensors.

use std::collections::BTreeMap;

use serde::Serialize;

use super::flops::count_parameters;
use crate::config::DecoderConfig;
use crate::formats::{Checkpoint, CheckpointError, StoredTensor};
use crate::weights::WeightSource;

/// The contents of the headers of a checkpoint.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// Format and layout of the files.
    pub format: String,
    /// llama.cpp's name for the number formats of a GGUF file.
    pub file_type: Option<&'static str>,
    /// The checked shape.
    pub config: DecoderConfig,
    /// All parameters; tied ones count once.
    pub total_parameters: u64,
    /// Parameters that one token uses.
    pub active_parameters: u64,
    /// Tensors and bytes of each number format.
    pub dtypes: BTreeMap<String, FormatUse>,
    /// Peculiarities of the files that were accepted.
    pub notices: Vec<String>,
    /// Every tensor.
    pub tensors: Vec<StoredTensor>,
}

/// Number and size of the tensors in a number format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct FormatUse {
    /// Number of tensors.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Inspection {
    /// Reads the headers of an open checkpoint.
    ///
    /// # Errors
    /// If the file type of a GGUF file is unknown.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, CheckpointError> {
        let parameters = count_parameters(checkpoint.config());
        let tensors = checkpoint.stored_tensors();
        let mut dtypes: BTreeMap<String, FormatUse> = BTreeMap::new();
        for tensor in &tensors {
            let found = dtypes.entry(tensor.format.clone()).or_default();
            *found = FormatUse { tensors: found.tensors + 1, bytes: found.bytes + tensor.size_bytes };
        }
        Ok(Self {
            format: checkpoint.format(),
            file_type: checkpoint.file_type()?,
            config: checkpoint.config().clone(),
            total_parameters: parameters.total,
            active_parameters: parameters.active,
            dtypes,
            notices: checkpoint.notices(),
            tensors,
        })
    }
}
