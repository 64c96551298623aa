//! Explicit vectors of sixteen lanes, with the same bits on every CPU.
//!
//! Kernels that the compiler cannot vectorize are written with [`Lanes`]: sixteen lanes of f32, of i32, or of four bytes.
//! Each operation is defined lane by lane, to the bit, so a kernel gives the same bits with AVX-512, with AVX2 and with
//! [`Plain`], the portable reference.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod plain;
mod traits;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(in crate::kernel) use plain::Plain;
pub(in crate::kernel) use traits::{FourAtOnce, Lanes, WithLanes, four_at_once, sixteen};

/// Prefetches the cache line at `address`, which need not be mapped.
#[inline]
pub(super) fn prefetch(address: usize) {
    #[cfg(target_arch = "x86_64")]
    x86::prefetch(address as *const u8);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// The instructions of the widest lanes of this CPU.
pub(in crate::kernel) fn instructions() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if avx512::Avx512::detect().is_some() {
            return "AVX-512 with VNNI";
        }
        if avx2::Avx2::detect().is_some() {
            return "AVX2";
        }
    }
    "portable"
}

/// Runs a kernel on the widest lanes of this CPU.
pub(in crate::kernel) fn with_lanes(kernel: impl WithLanes) {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(lanes) = avx512::Avx512::detect() {
            return lanes.run(kernel);
        }
        if let Some(lanes) = avx2::Avx2::detect() {
            return lanes.run(kernel);
        }
    }
    kernel.with_lanes(Plain);
}

/// Runs a kernel on all lanes of this CPU, [`Plain`] first.
#[cfg(test)]
pub(in crate::kernel) fn with_each_lanes<K: WithLanes>(kernel: impl Fn() -> K) {
    kernel().with_lanes(Plain);
    with_lanes(kernel());
    #[cfg(target_arch = "x86_64")]
    if let Some(lanes) = avx2::Avx2::detect() {
        lanes.run(kernel());
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Applies every operation to values that differ from lane to lane.
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
    fn every_operation_equals_the_plain_lanes_bit_for_bit() {
        let found = RefCell::default();
        with_each_lanes(|| Everything(&found));
        let found = found.into_inner();
        assert!(found.len() > 1 && found.iter().all(|bits| *bits == found[0]));
    }
}
