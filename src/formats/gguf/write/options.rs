//! Options of a GGUF file.

use crate::weights::GgmlType;

/// Every tensor begins at a multiple of this many bytes, counted from the first tensor.
pub(super) const ALIGNMENT: u64 = 32;

/// The number types of the matrices. Norms, routers and rope factors are always F32.
///
/// Of quantized files, the output matrix, which may be the embedding table, is Q8_0 in a Q8_0 file and otherwise Q6_K, or Q8_0
/// if its rows are no multiple of 256. The other matrices are mixed as llama.cpp's quantizer mixes those of a dense model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(non_camel_case_types, reason = "ggml's names")]
pub enum GgufFileType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
    /// Blocks of 32 numbers of 8 bits with one scale in half precision; a matrix whose rows are no multiple of 32 is F16.
    Q8_0,
    /// Blocks of 32 numbers of 4 bits with one scale in half precision; a matrix whose rows are no multiple of 32 is F16, here and
    /// below.
    Q4_0,
    /// llama.cpp's `Q4_K_M`: Q4_K, and Q6_K in about half of the layers' `attn_v` and `ffn_down`. Rows that are no multiple
    /// of 256 are Q5_0 in place of Q4_K and Q8_0 in place of Q6_K.
    Q4_K,
    /// llama.cpp's `Q2_K_S`: Q2_K, and Q4_K in `attn_v` of models with at least 4 query heads per key head and in the
    /// `ffn_down` of the first eighth of the layers. Rows that are no multiple of 256 are Q4_0 in place of Q2_K and
    /// Q5_0 in place of Q4_K. llama.cpp itself makes this mix with an importance matrix only.
    Q2_K,
}

impl GgufFileType {
    /// ggml's name, which ends the name of a file.
    pub fn name(self) -> &'static str {
        self.main_type().name
    }

    /// The type of most matrices.
    pub(super) fn main_type(self) -> GgmlType {
        match self {
            Self::F32 => GgmlType::F32,
            Self::F16 => GgmlType::F16,
            Self::Bf16 => GgmlType::BF16,
            Self::Q8_0 => GgmlType::Q8_0,
            Self::Q4_0 => GgmlType::Q4_0,
            Self::Q4_K => GgmlType::Q4_K,
            Self::Q2_K => GgmlType::Q2_K,
        }
    }

    /// llama.cpp's number of the mix.
    pub(super) fn number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q8_0 => 7,
            Self::Q4_K => 15,
            Self::Q2_K => 21,
            Self::Bf16 => 32,
        }
    }

    /// The whole numbers on one side of zero that a number in a block is rounded to, about; `None` of types without
    /// blocks.
    pub fn levels(self) -> Option<f32> {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => None,
            Self::Q8_0 => Some(127.0),
            Self::Q4_0 | Self::Q4_K => Some(8.0),
            Self::Q2_K => Some(2.0),
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
