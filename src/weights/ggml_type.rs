//! Number types of ggml: single numbers, or blocks of numbers that share scales.

use std::fmt;

/// A number type that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GgmlType {
    pub(crate) kind: GgmlKind,
    /// ggml's spelling.
    pub name: &'static str,
    /// Numbers in a block.
    pub block_numbers: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
}

/// The types, with ggml's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[allow(non_camel_case_types, reason = "these are ggml's names")]
pub(crate) enum GgmlKind {
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
    pub(crate) const F32: Self = of(GgmlKind::F32, "F32", 1, 4);
    pub(crate) const F16: Self = of(GgmlKind::F16, "F16", 1, 2);
    pub(crate) const Q4_0: Self = of(GgmlKind::Q4_0, "Q4_0", 32, 18);
    pub(crate) const Q5_0: Self = of(GgmlKind::Q5_0, "Q5_0", 32, 22);
    pub(crate) const Q8_0: Self = of(GgmlKind::Q8_0, "Q8_0", 32, 34);
    pub(crate) const Q2_K: Self = of(GgmlKind::Q2_K, "Q2_K", 256, 84);
    pub(crate) const Q4_K: Self = of(GgmlKind::Q4_K, "Q4_K", 256, 144);
    pub(crate) const Q6_K: Self = of(GgmlKind::Q6_K, "Q6_K", 256, 210);
    pub(crate) const BF16: Self = of(GgmlKind::BF16, "BF16", 1, 2);

    /// All types, in the order of ggml's numbers.
    pub const ALL: [Self; 15] = [
        Self::F32,
        Self::F16,
        Self::Q4_0,
        of(GgmlKind::Q4_1, "Q4_1", 32, 20),
        Self::Q5_0,
        of(GgmlKind::Q5_1, "Q5_1", 32, 24),
        Self::Q8_0,
        Self::Q2_K,
        of(GgmlKind::Q3_K, "Q3_K", 256, 110),
        Self::Q4_K,
        of(GgmlKind::Q5_K, "Q5_K", 256, 176),
        Self::Q6_K,
        of(GgmlKind::IQ4_NL, "IQ4_NL", 32, 18),
        of(GgmlKind::IQ4_XS, "IQ4_XS", 256, 136),
        Self::BF16,
    ];

    /// ggml's number.
    pub(crate) fn number(self) -> u32 {
        self.kind as u32
    }

    /// The type of this number, if it can be read.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|ty| ty.number() == number)
    }

    /// Bytes of this many numbers.
    ///
    /// # Panics
    /// If `numbers` is not a multiple of `block_numbers`.
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
