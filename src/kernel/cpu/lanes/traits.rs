//! The operations on sixteen lanes, and the kernels written with them.

/// Operations on sixteen lanes. A value of an implementing type proves that this CPU has its instructions.
pub(in crate::kernel) trait Lanes: Copy {
    /// Architectural vector registers: how many accumulators and operands a kernel can keep.
    const REGISTERS: usize;
    /// Sixteen f32.
    type Floats: Copy;
    /// Sixteen i32.
    type Ints: Copy;
    /// Sixteen groups of four bytes.
    type Bytes: Copy;

    /// Prefetches a cache line; the address need not be mapped.
    fn prefetch<T>(self, address: *const T);

    fn splat(self, value: f32) -> Self::Floats;
    fn load(self, values: &[f32; 16]) -> Self::Floats;
    fn store(self, values: Self::Floats, to: &mut [f32; 16]);
    /// Widens sixteen bfloat16 in memory order.
    fn load_bf16(self, bytes: &[u8; 32]) -> Self::Floats;
    /// Widens sixteen float16 in memory order.
    fn load_f16(self, bytes: &[u8; 32]) -> Self::Floats;
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a·b + c`, rounded once.
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// Transposes 16×16 in place.
    fn transpose(self, rows: &mut [[f32; 16]; 16]);
    /// Horizontal sum: lane `i` plus lane `i + 8`, then `i + 4`, `i + 2`, `i + 1`.
    fn sum(self, values: Self::Floats) -> f32;
    /// Lane `i` is the [`sum`](Self::sum) of vector `i`.
    fn sums(self, vectors: &[Self::Floats; 16]) -> Self::Floats;

    fn splat_int(self, value: i32) -> Self::Ints;
    fn load_u8(self, values: &[u8; 16]) -> Self::Ints;
    fn load_i8(self, values: &[u8; 16]) -> Self::Ints;
    /// Extracts `count` bits of each lane, from bit `from` on.
    fn bits(self, values: Self::Ints, from: u32, count: u32) -> Self::Ints;
    fn to_floats(self, values: Self::Ints) -> Self::Floats;

    fn load_bytes(self, bytes: &[u8; 64]) -> Self::Bytes;
    /// Extracts `count` bits of each byte, from bit `from` on.
    fn byte_bits(self, bytes: Self::Bytes, from: u32, count: u32) -> Self::Bytes;
    /// `low | high << by`, for bytes whose bits do not overlap.
    fn join(self, low: Self::Bytes, high: Self::Bytes, by: u32) -> Self::Bytes;
    /// Adds to each lane the dot product of its sixteen bytes of `codes`, unsigned and below `2^bits`, with `x`. Exact if the
    /// result fits 32 bits.
    fn dot16(self, sum: Self::Ints, codes: &[Self::Bytes; 4], x: &[[i8; 4]; 4], bits: usize) -> Self::Ints;
}

/// A kernel generic over the lanes.
pub(in crate::kernel) trait WithLanes {
    /// Must be `#[inline(always)]`: an outlined function is compiled for the baseline CPU.
    fn with_lanes<L: Lanes>(self, lanes: L);
}

/// A kernel on rows that loads shared operands once for `R` rows.
pub(in crate::kernel) trait FourAtOnce {
    /// Must be `#[inline(always)]`, as [`WithLanes::with_lanes`].
    fn rows<L: Lanes, const R: usize>(&mut self, lanes: L, first: usize);
}

/// Runs a kernel on `count` rows, four at a time, then the remainder.
#[inline(always)]
pub(in crate::kernel) fn four_at_once<L: Lanes>(kernel: &mut impl FourAtOnce, lanes: L, count: usize) {
    for first in (0..count).step_by(4) {
        match count - first {
            1 => kernel.rows::<L, 1>(lanes, first),
            2 => kernel.rows::<L, 2>(lanes, first),
            3 => kernel.rows::<L, 3>(lanes, first),
            _ => kernel.rows::<L, 4>(lanes, first),
        }
    }
}

/// The sixteen elements from `start` on.
#[inline(always)]
pub(in crate::kernel) fn sixteen<T>(slice: &[T], start: usize) -> &[T; 16] {
    slice[start..start + 16].as_array().expect("sixteen")
}
