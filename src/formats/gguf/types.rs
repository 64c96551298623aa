//! The number types of GGUF: blocks of numbers with a common scale.

use std::fmt;

/// A number type that is read; four of them are written too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GgmlType {
    pub(super) kind: GgmlKind,
    /// As ggml spells it.
    pub name: &'static str,
    /// Numbers in a block.
    pub block_numbers: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
}

/// Which type, with the number that ggml gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[allow(non_camel_case_types, reason = "these are ggml's names")]
pub(super) enum GgmlKind {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q2_K = 10,
    Q3_K = 11,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    IQ4_NL = 20,
    IQ4_XS = 23,
    BF16 = 30,
}

impl GgmlType {
    pub(super) const F32: Self = of(GgmlKind::F32, "F32", 1, 4);
    pub(super) const F16: Self = of(GgmlKind::F16, "F16", 1, 2);
    pub(super) const Q8_0: Self = of(GgmlKind::Q8_0, "Q8_0", 32, 34);
    pub(super) const BF16: Self = of(GgmlKind::BF16, "BF16", 1, 2);

    /// Every type that is read, by ggml's number.
    pub const ALL: [Self; 15] = [
        Self::F32,
        Self::F16,
        of(GgmlKind::Q4_0, "Q4_0", 32, 18),
        of(GgmlKind::Q4_1, "Q4_1", 32, 20),
        of(GgmlKind::Q5_0, "Q5_0", 32, 22),
        of(GgmlKind::Q5_1, "Q5_1", 32, 24),
        Self::Q8_0,
        of(GgmlKind::Q2_K, "Q2_K", 256, 84),
        of(GgmlKind::Q3_K, "Q3_K", 256, 110),
        of(GgmlKind::Q4_K, "Q4_K", 256, 144),
        of(GgmlKind::Q5_K, "Q5_K", 256, 176),
        of(GgmlKind::Q6_K, "Q6_K", 256, 210),
        of(GgmlKind::IQ4_NL, "IQ4_NL", 32, 18),
        of(GgmlKind::IQ4_XS, "IQ4_XS", 256, 136),
        Self::BF16,
    ];

    /// The number that ggml gives it.
    pub(super) fn number(self) -> u32 {
        self.kind as u32
    }

    /// The type with ggml's number, if it is read.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|ty| ty.number() == number)
    }

    /// Bytes that so many numbers take.
    ///
    /// # Panics
    /// If they fill no whole blocks.
    pub fn size_bytes(self, numbers: u64) -> u64 {
        assert!(numbers.is_multiple_of(self.block_numbers as u64), "{numbers} numbers in blocks of {self:?}");
        numbers / self.block_numbers as u64 * self.block_bytes as u64
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name)
    }
}

const fn of(kind: GgmlKind, name: &'static str, block_numbers: usize, block_bytes: usize) -> GgmlType {
    GgmlType { kind, name, block_numbers, block_bytes }
}

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
