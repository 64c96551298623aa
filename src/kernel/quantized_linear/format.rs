//! The block formats that weights stay packed in, and what each is made of.

/// A format of GGUF whose blocks are integers with a scale: `value = scale·(code − offset) + minimum`.
///
/// Bytes, codes and rounding are those of the reference implementation (ggml, `ggml-quants.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(non_camel_case_types, reason = "the names that GGUF gives them")]
#[expect(missing_docs, reason = "the table is in `layout`")]
pub enum BlockFormat {
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
}

/// How the scales of a block are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scales {
    /// One float16 a block.
    Plain,
    /// One float16 a block for the scale and one for the minimum, which is added.
    WithMinimum,
    /// A float16 a block times a signed byte a sub-block.
    Signed,
    /// Two float16 a block, each times a byte a sub-block; the minimum is subtracted.
    TwoBytes,
    /// The same with half a byte each.
    TwoNibbles,
}

/// What a block is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// Numbers a block.
    pub block: usize,
    /// Numbers that share a scale.
    pub sub_block: usize,
    /// Bits of a code: those of its lower plane, and those above.
    pub bits: [usize; 2],
    /// The code that stands for zero.
    pub offset: u8,
    pub scales: Scales,
}

impl BlockFormat {
    /// Every format.
    pub const ALL: [Self; 10] = [
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
    ];

    /// The format of a name: `Q4_0`, `Q6_K`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format!("{format:?}") == name)
    }

    /// Numbers a block: 32, or 256 for the formats that end in `_K`. A row is a whole number of blocks.
    pub const fn block_len(self) -> usize {
        self.layout().block
    }

    /// Bytes a block takes in a file.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
        }
    }

    pub(super) const fn layout(self) -> Layout {
        use Scales::{Plain, Signed, TwoBytes, TwoNibbles, WithMinimum};
        let (block, sub_block, bits, offset, scales) = match self {
            Self::Q8_0 => (32, 32, [8, 0], 128, Plain),
            Self::Q4_0 => (32, 32, [4, 0], 8, Plain),
            Self::Q4_1 => (32, 32, [4, 0], 0, WithMinimum),
            Self::Q5_0 => (32, 32, [4, 1], 16, Plain),
            Self::Q5_1 => (32, 32, [4, 1], 0, WithMinimum),
            Self::Q2_K => (256, 16, [2, 0], 0, TwoNibbles),
            Self::Q3_K => (256, 16, [2, 1], 4, Signed),
            Self::Q4_K => (256, 32, [4, 0], 0, TwoBytes),
            Self::Q5_K => (256, 32, [4, 1], 0, TwoBytes),
            Self::Q6_K => (256, 16, [4, 2], 32, Signed),
        };
        Layout { block, sub_block, bits, offset, scales }
    }
}

impl Layout {
    /// Bytes of the float16 numbers that sixteen rows have a block.
    pub const fn head_bytes(self) -> usize {
        match self.scales {
            Scales::Plain | Scales::Signed => 32,
            Scales::WithMinimum | Scales::TwoBytes | Scales::TwoNibbles => 64,
        }
    }

    /// Bytes of the scales that sixteen rows have a sub-block.
    pub const fn scale_bytes(self) -> usize {
        match self.scales {
            Scales::Plain | Scales::WithMinimum => 0,
            Scales::Signed | Scales::TwoNibbles => 16,
            Scales::TwoBytes => 32,
        }
    }

    /// Bytes of the codes of 32 numbers of sixteen rows.
    pub const fn code_bytes(self) -> usize {
        (self.bits[0] + self.bits[1]) * 64
    }

    /// Bytes of 32 numbers of sixteen rows, without the head.
    pub const fn unit_bytes(self) -> usize {
        32 / self.sub_block * self.scale_bytes() + self.code_bytes()
    }

    /// Bytes of a block of sixteen rows.
    pub const fn panel_block_bytes(self) -> usize {
        self.head_bytes() + self.block / 32 * self.unit_bytes()
    }
}
