//! Options of a GGUF file.

use crate::weights::GgmlType;

/// Every tensor begins at a multiple of this many bytes, counted from the first tensor.
pub(super) const ALIGNMENT: u64 = 32;

/// The number type of the matrices. Norms, routers and rope factors are always F32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufFileType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
    /// Blocks of 32 numbers of 8 bits with one scale in half precision; a matrix whose rows are no multiple of 32 is F16.
    Q8_0,
}

impl GgufFileType {
    /// ggml's name, which ends the name of a file.
    pub fn name(self) -> &'static str {
        self.ggml().name
    }

    /// The same as every reader knows it.
    pub(super) fn ggml(self) -> GgmlType {
        match self {
            Self::F32 => GgmlType::F32,
            Self::F16 => GgmlType::F16,
            Self::Bf16 => GgmlType::BF16,
            Self::Q8_0 => GgmlType::Q8_0,
        }
    }
}

/// Options of a GGUF file, beyond weights and vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufOptions {
    /// The number type of the matrices.
    pub file_type: GgufFileType,
    /// `general.name`, if the model has one.
    pub name: Option<String>,
}
