//! Sizes of the parts of a panel of [`PANEL`] interleaved rows.

use crate::kernel::blocks::{Layout, Scales};

/// Rows of a panel. Lane `r` of a kernel computes row `r`.
pub(super) const PANEL: usize = 16;

/// Sizes are for all sixteen rows together.
impl Layout {
    /// Bytes of the float16 scales of one block.
    pub(super) const fn head_bytes(self) -> usize {
        32 * self.scales.num_halves()
    }

    /// Bytes of the scales of one sub-block.
    pub(super) const fn scale_bytes(self) -> usize {
        match self.scales {
            Scales::Plain | Scales::WithMinimum => 0,
            Scales::Signed | Scales::TwoNibbles => 16,
            Scales::TwoBytes => 32,
        }
    }

    /// Bytes of the codes of a unit of 32 elements.
    pub(super) const fn code_bytes(self) -> usize {
        (self.bits[0] + self.bits[1]) * 64
    }

    /// Bytes of a unit of 32 elements, without the head.
    pub(super) const fn unit_bytes(self) -> usize {
        32 / self.sub_block * self.scale_bytes() + self.code_bytes()
    }

    /// Bytes of one block.
    pub(super) const fn panel_block_bytes(self) -> usize {
        self.head_bytes() + self.block / 32 * self.unit_bytes()
    }
}
