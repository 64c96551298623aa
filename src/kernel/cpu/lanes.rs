//! Sixteen numbers at a time, with the same result on every CPU.
//!
//! [`Lanes`] is what kernels that the compiler cannot vectorize by itself are written in: sixteen lanes of f32, as many
//! of i32, four bytes a lane. Each operation is defined lane by lane, to the bit, so a kernel gives the same bits with
//! AVX-512, with AVX2 and on the plain lanes that are their reference.

mod plain;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(in crate::kernel) use plain::Plain;

/// Operations on sixteen lanes. A value of such a type is the proof that this CPU has them.
pub(in crate::kernel) trait Lanes: Copy {
    /// Vector registers of the CPU, as many as a kernel may fill.
    const REGISTERS: usize;
    /// Sixteen f32.
    type Floats: Copy;
    /// Sixteen i32.
    type Ints: Copy;
    /// Sixteen times four bytes.
    type Bytes: Copy;

    /// Asks for the cache line at an address that will be read soon; any address will do.
    fn prefetch<T>(self, address: *const T);

    fn splat(self, value: f32) -> Self::Floats;
    fn load(self, values: &[f32; 16]) -> Self::Floats;
    fn store(self, values: Self::Floats, to: &mut [f32; 16]);
    /// Sixteen bfloat16 in memory order, widened.
    fn load_bf16(self, bytes: &[u8; 32]) -> Self::Floats;
    /// Sixteen float16 in memory order, widened.
    fn load_f16(self, bytes: &[u8; 32]) -> Self::Floats;
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a·b + c`, rounded once.
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// Rows become columns.
    fn transpose(self, rows: &mut [[f32; 16]; 16]);
    /// Lane `i` plus lane `i + 8`, then `i + 4`, `i + 2`, `i + 1`.
    fn sum(self, values: Self::Floats) -> f32;
    /// In lane `i` the [`sum`](Self::sum) of the vector `i`.
    fn sums(self, vectors: &[Self::Floats; 16]) -> Self::Floats;

    fn splat_int(self, value: i32) -> Self::Ints;
    fn load_u8(self, values: &[u8; 16]) -> Self::Ints;
    fn load_i8(self, values: &[u8; 16]) -> Self::Ints;
    /// The `count` bits from bit `from` on of each lane.
    fn bits(self, values: Self::Ints, from: u32, count: u32) -> Self::Ints;
    fn to_floats(self, values: Self::Ints) -> Self::Floats;

    fn load_bytes(self, bytes: &[u8; 64]) -> Self::Bytes;
    /// The `count` bits from bit `from` on of each byte.
    fn byte_bits(self, bytes: Self::Bytes, from: u32, count: u32) -> Self::Bytes;
    /// `low + (high << by)` for bytes whose bits do not meet.
    fn join(self, low: Self::Bytes, high: Self::Bytes, by: u32) -> Self::Bytes;
    /// Each lane plus the products of its sixteen bytes, unsigned and below `2^bits`, with the sixteen numbers of `x`;
    /// nothing overflows where the sum fits.
    fn dot16(self, sum: Self::Ints, codes: &[Self::Bytes; 4], x: &[[i8; 4]; 4], bits: usize) -> Self::Ints;
}

/// A kernel written in lanes.
pub(in crate::kernel) trait WithLanes {
    /// Must be `#[inline(always)]`: a function of its own is compiled for the plainest CPU.
    fn with_lanes<L: Lanes>(self, lanes: L);
}

/// A kernel on rows, which loads what rows share once for `R` of them.
pub(in crate::kernel) trait FourAtOnce {
    /// Must be `#[inline(always)]`, as [`WithLanes::with_lanes`].
    fn rows<L: Lanes, const R: usize>(&mut self, lanes: L, first: usize);
}

/// Runs a kernel on `count` rows, four at once, then those that are left.
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

/// Asks for the cache line at an address, which may be any.
#[inline]
pub(super) fn prefetch(address: usize) {
    #[cfg(target_arch = "x86_64")]
    x86::prefetch(address as *const u8);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Runs a kernel on the widest lanes that this CPU has.
pub(in crate::kernel) fn with_lanes(kernel: impl WithLanes) {
    #[cfg(target_arch = "x86_64")]
    return match x86::detect() {
        Some(x86::Found::Avx512(lanes)) => lanes.run(kernel),
        Some(x86::Found::Avx2(lanes)) => lanes.run(kernel),
        None => kernel.with_lanes(Plain),
    };
    #[cfg(not(target_arch = "x86_64"))]
    kernel.with_lanes(Plain);
}

/// Runs a kernel on every kind of lanes that this CPU has, the plain ones first.
#[cfg(test)]
pub(in crate::kernel) fn with_each_lanes<K: WithLanes>(kernel: impl Fn() -> K) {
    kernel().with_lanes(Plain);
    with_lanes(kernel());
    #[cfg(target_arch = "x86_64")]
    if let Some(lanes) = x86::Avx2::detect() {
        lanes.run(kernel());
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Every operation on numbers that differ from lane to lane.
    struct Everything<'a>(&'a RefCell<Vec<Vec<u32>>>);

    impl WithLanes for Everything<'_> {
        #[inline(always)]
        fn with_lanes<L: Lanes>(self, lanes: L) {
            let mut state = 7u32;
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state >> 8
            };
            let mut found = Vec::new();
            let mut out = |values: L::Floats| {
                let mut stored = [0.0; 16];
                lanes.store(values, &mut stored);
                found.extend(stored.map(f32::to_bits));
            };
            for _ in 0..50 {
                let floats: [f32; 16] = std::array::from_fn(|_| next() as f32 / 8e6 - 1.0);
                let halves: [u16; 16] = std::array::from_fn(|_| (next() & 0xbbff) as u16);
                let small: [u8; 16] = std::array::from_fn(|_| next() as u8);
                let bytes: [u8; 64] = std::array::from_fn(|_| next() as u8);
                let halves = bytemuck::cast_ref(&halves);
                let (a, b) = (lanes.load(&floats), lanes.load_bf16(halves));
                let c = lanes.load_f16(halves);
                let products = [lanes.mul(a, c), lanes.mul_add(a, b, c)];
                [a, b, c, lanes.splat(floats[3])].into_iter().chain(products).for_each(&mut out);
                let (unsigned, signed) = (lanes.load_u8(&small), lanes.load_i8(&small));
                let low = lanes.byte_bits(lanes.load_bytes(&bytes), 0, 4);
                let joined = lanes.join(low, lanes.byte_bits(lanes.load_bytes(&bytes), 5, 2), 4);
                for ints in [unsigned, signed, lanes.bits(unsigned, 4, 4), lanes.bits(unsigned, 0, 3)] {
                    out(lanes.to_floats(ints));
                }
                let x = std::array::from_fn(|_| std::array::from_fn(|_| next() as i8));
                for bits in [2, 3, 4, 5, 6, 8] {
                    let cut = |bytes| if bits == 8 { bytes } else { lanes.byte_bits(bytes, 0, bits) };
                    let [random, largest] = [bytes, [255; 64]].map(|bytes| cut(lanes.load_bytes(&bytes)));
                    let mut dot = |codes, x| {
                        out(lanes.to_floats(lanes.dot16(lanes.splat_int(-9), &codes, &x, bits as usize)));
                    };
                    dot([random, cut(joined), largest, random], x);
                    [i8::MIN, i8::MAX].into_iter().for_each(|extreme| dot([largest; 4], [[extreme; 4]; 4]));
                }
                let mut square = [floats; 16];
                square.iter_mut().enumerate().for_each(|(row, floats)| floats.rotate_left(row * 5 % 16));
                lanes.transpose(&mut square);
                square.iter().for_each(|row| out(lanes.load(row)));
                let sum = lanes.sum(a);
                out(lanes.splat(sum));
                let mut vectors = [a; 16];
                vectors.iter_mut().zip(&square).for_each(|(vector, row)| *vector = lanes.mul(b, lanes.load(row)));
                out(lanes.sums(&vectors));
            }
            self.0.borrow_mut().push(found);
        }
    }

    #[test]
    fn every_operation_has_the_bits_of_the_plain_lanes() {
        let found = RefCell::default();
        with_each_lanes(|| Everything(&found));
        let found = found.into_inner();
        assert!(found.len() > 1 && found.iter().all(|bits| *bits == found[0]));
    }
}
