//! Names of GGUF number types, those that are read and those that are not, for messages.

use crate::weights::GgmlType;

/// The types that are read, for messages.
pub(super) fn supported() -> String {
    GgmlType::ALL.map(|ty| ty.name).join(", ")
}

/// What a type that is not read is called, as far as ggml defines it.
pub(super) fn unread_name(number: u32) -> Option<&'static str> {
    const NAMES: [(u32, &str); 26] = [
        (4, "Q4_2, removed in 2023"),
        (5, "Q4_3, removed in 2023"),
        (9, "Q8_1"),
        (15, "Q8_K"),
        (16, "IQ2_XXS"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (21, "IQ3_S"),
        (22, "IQ2_S"),
        (24, "I8"),
        (25, "I16"),
        (26, "I32"),
        (27, "I64"),
        (28, "F64"),
        (29, "IQ1_M"),
        (31, "Q4_0_4_4, removed in 2024"),
        (32, "Q4_0_4_8, removed in 2024"),
        (33, "Q4_0_8_8, removed in 2024"),
        (34, "TQ1_0"),
        (35, "TQ2_0"),
        (36, "IQ4_NL_4_4, removed in 2024"),
        (37, "IQ4_NL_4_8, removed in 2024"),
        (38, "IQ4_NL_8_8, removed in 2024"),
        (39, "MXFP4"),
        (40, "NVFP4"),
    ];
    NAMES.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}
