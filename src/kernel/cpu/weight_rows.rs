//! Float weights in the type of the checkpoint, f32, f16 or bf16, widened when loaded into a register.

use std::ops::Range;

use burn::backend::flex::FlexTensor;
use burn::tensor::DType;
use half::{bf16, f16};

use super::lanes::Lanes;
use super::vectorized;

/// An element type of float weights.
pub(in crate::kernel) trait Widen: bytemuck::Pod + Send + Sync {
    fn widen(self) -> f32;
    /// Rounds to the nearest bfloat16, ties to even.
    #[inline(always)]
    fn to_bfloat16_bits(self) -> u16 {
        // Not `from_f32`, whose NaN branch keeps the loop from vectorizing.
        let bits = self.widen().to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        let quiet_nan = bits >> 16 | 0x40;
        (if bits & 0x7fff_ffff > 0x7f80_0000 { quiet_nan } else { rounded }) as u16
    }
    fn load<L: Lanes>(lanes: L, numbers: &[Self; 16]) -> L::Floats;
}

impl Widen for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn load<L: Lanes>(lanes: L, numbers: &[f32; 16]) -> L::Floats {
        lanes.load(numbers)
    }
}

impl Widen for bf16 {
    // Not `to_f32`, whose NaN branch keeps the loop from vectorizing.
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn to_bfloat16_bits(self) -> u16 {
        self.to_bits()
    }

    #[inline(always)]
    fn load<L: Lanes>(lanes: L, numbers: &[bf16; 16]) -> L::Floats {
        lanes.load_bf16(bytemuck::cast_ref(numbers))
    }
}

impl Widen for f16 {
    // Not `to_f32`, whose branches and CPU detection keep the loop from vectorizing. Shifts the fields into place, and rebiases
    // the exponent by one exact product, subnormals included; infinity and NaN keep their exponent.
    #[inline(always)]
    fn widen(self) -> f32 {
        const BIAS: f32 = f32::from_bits((127 + 127 - 15) << 23);
        let bits = u32::from(self.to_bits());
        let magnitude = (bits & 0x7fff) << 13;
        let finite = (f32::from_bits(magnitude) * BIAS).to_bits();
        let wide = if magnitude >= 0x7c00 << 13 { magnitude | 0x7f80_0000 } else { finite };
        f32::from_bits(wide | (bits & 0x8000) << 16)
    }

    #[inline(always)]
    fn load<L: Lanes>(lanes: L, numbers: &[f16; 16]) -> L::Floats {
        lanes.load_f16(bytemuck::cast_ref(numbers))
    }
}

/// Contiguous rows of a weight matrix, in the type of the checkpoint.
#[derive(Clone, Copy)]
pub(in crate::kernel) enum WeightRows<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
}

impl<'a> WeightRows<'a> {
    /// The elements of a contiguous weight tensor.
    ///
    /// # Panics
    /// If it is strided or not a float of at most 32 bits.
    pub(in crate::kernel) fn from_tensor(weight: &'a FlexTensor) -> Self {
        let contiguous = "weights are contiguous";
        match weight.dtype() {
            DType::F32 => Self::F32(weight.as_slice().expect(contiguous)),
            DType::F16 => Self::F16(weight.as_slice().expect(contiguous)),
            DType::BF16 => Self::Bf16(weight.as_slice().expect(contiguous)),
            other => panic!("weights are f32, f16 or bf16, got {other:?}"),
        }
    }

    /// `len` elements from `start` on.
    pub(in crate::kernel) fn slice(self, start: usize, len: usize) -> Self {
        match self {
            Self::F32(w) => Self::F32(&w[start..start + len]),
            Self::F16(w) => Self::F16(&w[start..start + len]),
            Self::Bf16(w) => Self::Bf16(&w[start..start + len]),
        }
    }

    /// The given rows of `k` elements.
    pub(super) fn rows(self, rows: Range<usize>, k: usize) -> Self {
        self.slice(rows.start * k, rows.len() * k)
    }

    /// Number of elements.
    pub(in crate::kernel) fn len(self) -> usize {
        match self {
            Self::F32(w) => w.len(),
            Self::F16(w) => w.len(),
            Self::Bf16(w) => w.len(),
        }
    }

    pub(super) fn as_ptr_range(&self) -> Range<*const u8> {
        match self {
            Self::F32(w) => bytemuck::cast_slice::<_, u8>(w).as_ptr_range(),
            Self::F16(w) => bytemuck::cast_slice::<_, u8>(w).as_ptr_range(),
            Self::Bf16(w) => bytemuck::cast_slice::<_, u8>(w).as_ptr_range(),
        }
    }

    /// Widens the elements to f32.
    ///
    /// # Panics
    /// If `out` has another length.
    pub(in crate::kernel) fn widen_into(self, out: &mut [f32]) {
        match self {
            Self::F32(w) => out.copy_from_slice(w),
            Self::F16(w) => widen(w, out),
            Self::Bf16(w) => widen(w, out),
        }
    }
}

fn widen<W: Widen>(narrow: &[W], out: &mut [f32]) {
    assert_eq!(narrow.len(), out.len(), "lengths of a slice and its widened copy");
    vectorized!(out.iter_mut().zip(narrow).for_each(|(wide, narrow)| *wide = narrow.widen()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_precision_value_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let (brain, half) = (bf16::from_bits(bits), f16::from_bits(bits));
            assert!(brain.widen() == brain.to_f32() || brain.is_nan() && brain.widen().is_nan(), "{bits:#x}");
            assert!(half.widen() == half.to_f32() || half.is_nan() && half.widen().is_nan(), "{bits:#x}");
        }
    }

    #[test]
    fn rounding_to_bfloat16_is_to_nearest_even() {
        let halfway = [0x0000u32, 0x7fff, 0x8000, 0x8001, 0xffff];
        for bits in (0..=u32::from(u16::MAX)).flat_map(|high| halfway.map(|low| high << 16 | low)) {
            let number = f32::from_bits(bits);
            assert_eq!(number.to_bfloat16_bits(), bf16::from_f32(number).to_bits(), "{bits:#x}");
        }
    }
}
