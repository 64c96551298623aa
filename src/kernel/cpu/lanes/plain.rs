//! Portable lanes: the definition of each operation.

use half::f16;

use super::traits::Lanes;

/// Lanes as arrays, for any CPU.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Plain;

#[inline(always)]
fn each<A: Copy, B: Copy, R>(a: [A; 16], b: [B; 16], f: impl Fn(A, B) -> R) -> [R; 16] {
    std::array::from_fn(
        #[inline(always)]
        |i| f(a[i], b[i]),
    )
}

#[inline(always)]
fn halves(bytes: &[u8; 32]) -> [u16; 16] {
    std::array::from_fn(|i| u16::from_ne_bytes([bytes[2 * i], bytes[2 * i + 1]]))
}

impl Lanes for Plain {
    const REGISTERS: usize = 16;
    type Floats = [f32; 16];
    type Ints = [i32; 16];
    type Bytes = [u8; 64];

    #[inline(always)]
    fn prefetch<T>(self, _address: *const T) {}

    #[inline(always)]
    fn splat(self, value: f32) -> [f32; 16] {
        [value; 16]
    }

    #[inline(always)]
    fn load(self, values: &[f32; 16]) -> [f32; 16] {
        *values
    }

    #[inline(always)]
    fn store(self, values: [f32; 16], to: &mut [f32; 16]) {
        *to = values;
    }

    #[inline(always)]
    fn load_bf16(self, bytes: &[u8; 32]) -> [f32; 16] {
        halves(bytes).map(|bits| f32::from_bits(u32::from(bits) << 16))
    }

    #[inline(always)]
    fn load_f16(self, bytes: &[u8; 32]) -> [f32; 16] {
        halves(bytes).map(|bits| f16::from_bits(bits).to_f32())
    }

    #[inline(always)]
    fn mul(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        each(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn mul_add(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        each(each(a, b, |a, b| (a, b)), c, |(a, b), c| a.mul_add(b, c))
    }

    #[inline(always)]
    fn transpose(self, rows: &mut [[f32; 16]; 16]) {
        let input = *rows;
        for (column, row) in rows.iter_mut().enumerate() {
            row.iter_mut().zip(&input).for_each(|(to, from)| *to = from[column]);
        }
    }

    #[inline(always)]
    fn sum(self, mut values: [f32; 16]) -> f32 {
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                values[i] += values[i + half];
            }
        }
        values[0]
    }

    #[inline(always)]
    fn sums(self, vectors: &[[f32; 16]; 16]) -> [f32; 16] {
        vectors.map(|vector| self.sum(vector))
    }

    #[inline(always)]
    fn splat_int(self, value: i32) -> [i32; 16] {
        [value; 16]
    }

    #[inline(always)]
    fn load_u8(self, values: &[u8; 16]) -> [i32; 16] {
        values.map(i32::from)
    }

    #[inline(always)]
    fn load_i8(self, values: &[u8; 16]) -> [i32; 16] {
        values.map(|value| i32::from(value as i8))
    }

    #[inline(always)]
    fn bits(self, values: [i32; 16], from: u32, count: u32) -> [i32; 16] {
        values.map(|value| value >> from & ((1 << count) - 1))
    }

    #[inline(always)]
    fn to_floats(self, values: [i32; 16]) -> [f32; 16] {
        values.map(|value| value as f32)
    }

    #[inline(always)]
    fn load_bytes(self, bytes: &[u8; 64]) -> [u8; 64] {
        *bytes
    }

    #[inline(always)]
    fn byte_bits(self, bytes: [u8; 64], from: u32, count: u32) -> [u8; 64] {
        bytes.map(|byte| byte >> from & ((1 << count) - 1))
    }

    #[inline(always)]
    fn join(self, low: [u8; 64], high: [u8; 64], by: u32) -> [u8; 64] {
        std::array::from_fn(
            #[inline(always)]
            |i| low[i] | high[i] << by,
        )
    }

    #[inline(always)]
    fn dot16(self, mut sum: [i32; 16], codes: &[[u8; 64]; 4], x: &[[i8; 4]; 4], _bits: usize) -> [i32; 16] {
        for (bytes, x) in codes.iter().zip(x) {
            for (sum, bytes) in sum.iter_mut().zip(bytes.as_chunks::<4>().0) {
                for (byte, x) in bytes.iter().zip(x) {
                    *sum += i32::from(*byte) * i32::from(*x);
                }
            }
        }
        sum
    }
}
