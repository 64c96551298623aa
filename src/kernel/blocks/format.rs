//! The formats, and the layout of a block in each.

/// A GGUF format of integer blocks: `value = scale·(code − offset) + minimum`.
///
/// Bytes, codes and rounding are those of the reference implementation (ggml, `ggml-quants.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(non_camel_case_types, reason = "GGUF's names")]
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

/// How the scales of a block are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::kernel) enum Scales {
    /// One float16 per block.
    Plain,
    /// Two float16 per block: the scale, and the minimum, which is added.
    WithMinimum,
    /// One float16 per block, times a signed byte per sub-block.
    Signed,
    /// Two float16 per block, each times a byte per sub-block; the minimum is subtracted.
    TwoBytes,
    /// As [`TwoBytes`](Self::TwoBytes), with four bits each.
    TwoNibbles,
}

impl Scales {
    /// Float16 values per block.
    pub const fn num_halves(self) -> usize {
        match self {
            Self::Plain | Self::Signed => 1,
            Self::WithMinimum | Self::TwoBytes | Self::TwoNibbles => 2,
        }
    }
}

/// The layout of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::kernel) struct Layout {
    /// Elements per block.
    pub block: usize,
    /// Elements that share a scale.
    pub sub_block: usize,
    /// Bits of a code in the lower and in the upper plane.
    pub bits: [usize; 2],
    /// The code of zero.
    pub offset: u8,
    pub scales: Scales,
}

impl BlockFormat {
    /// All formats.
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

    /// The format named `Q4_0`, `Q6_K`, ….
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format!("{format:?}") == name)
    }

    /// Elements per block: 32, or 256 for the formats that end in `_K`. A row is a whole number of blocks.
    pub const fn block_len(self) -> usize {
        self.layout().block
    }

    /// Bytes per block in a file.
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

    pub(in crate::kernel) const fn layout(self) -> Layout {
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
