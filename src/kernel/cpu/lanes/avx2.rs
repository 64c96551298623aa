//! Lanes in AVX2 with FMA and F16C: two registers for sixteen lanes.
#![expect(
    unsafe_code,
    reason = "intrinsics of instructions that not every CPU has; a value of the type proves that this one does"
)]

use std::arch::x86_64::*;

use super::traits::{Lanes, WithLanes};
use super::x86::{packed_bytes, prefetch, sum_of_eight};

/// Proof that the CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    #[inline]
    pub fn detect() -> Option<Self> {
        let found =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }

    /// Runs a kernel compiled for these instructions.
    pub fn run(self, kernel: impl WithLanes) {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn compiled(lanes: Avx2, kernel: impl WithLanes) {
            kernel.with_lanes(lanes);
        }
        // SAFETY: the existence of `self` proves the features.
        unsafe { compiled(self, kernel) }
    }
}

// Each `unsafe` block calls intrinsics of the CPU features that the existence of `self` proves. Those that take pointers read
// or write only the array behind the reference that the pointer comes from, unaligned.

impl Lanes for Avx2 {
    const REGISTERS: usize = 16;
    type Floats = [__m256; 2];
    type Ints = [__m256i; 2];
    type Bytes = [__m256i; 2];

    #[inline(always)]
    fn prefetch<T>(self, address: *const T) {
        prefetch(address);
    }

    #[inline(always)]
    fn splat(self, value: f32) -> [__m256; 2] {
        // SAFETY: `self`.
        unsafe { [_mm256_set1_ps(value); 2] }
    }

    #[inline(always)]
    fn load(self, values: &[f32; 16]) -> [__m256; 2] {
        // SAFETY: `self`; sixteen floats.
        unsafe { [_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values.as_ptr().add(8))] }
    }

    #[inline(always)]
    fn store(self, values: [__m256; 2], to: &mut [f32; 16]) {
        // SAFETY: `self`; sixteen floats.
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), values[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), values[1]);
        }
    }

    #[inline(always)]
    fn load_bf16(self, bytes: &[u8; 32]) -> [__m256; 2] {
        // SAFETY: `self`; twice eight 2-byte elements.
        unsafe {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(bytes.as_ptr().cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(bytes.as_ptr().add(16).cast()));
            [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high))]
        }
    }

    #[inline(always)]
    fn load_f16(self, bytes: &[u8; 32]) -> [__m256; 2] {
        // SAFETY: `self`; twice eight 2-byte elements.
        unsafe {
            let low = _mm_loadu_si128(bytes.as_ptr().cast());
            let high = _mm_loadu_si128(bytes.as_ptr().add(16).cast());
            [_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)]
        }
    }

    #[inline(always)]
    fn mul(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self`.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul_add(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self`.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    fn transpose(self, rows: &mut [[f32; 16]; 16]) {
        let input = *rows;
        for (row, column) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
            // SAFETY: `self`; every load and store is eight elements of one row.
            unsafe {
                let mut r = [_mm256_setzero_ps(); 8];
                for (i, r) in r.iter_mut().enumerate() {
                    *r = _mm256_loadu_ps(input[row + i][column..column + 8].as_ptr());
                }
                for (i, r) in transpose_8x8(r).into_iter().enumerate() {
                    _mm256_storeu_ps(rows[column + i][row..row + 8].as_mut_ptr(), r);
                }
            }
        }
    }

    #[inline(always)]
    fn sum(self, values: [__m256; 2]) -> f32 {
        // SAFETY: `self`.
        unsafe { sum_of_eight(_mm256_add_ps(values[0], values[1])) }
    }

    #[inline(always)]
    fn sums(self, vectors: &[[__m256; 2]; 16]) -> [__m256; 2] {
        // SAFETY: `self`.
        unsafe {
            let mut eights = [_mm256_setzero_ps(); 16];
            for (eight, [low, high]) in eights.iter_mut().zip(vectors) {
                *eight = _mm256_add_ps(*low, *high);
            }
            let ([low, high], _) = eights.as_chunks::<8>() else { unreachable!() };
            [sums_of_eight(low), sums_of_eight(high)]
        }
    }

    #[inline(always)]
    fn splat_int(self, value: i32) -> [__m256i; 2] {
        // SAFETY: `self`.
        unsafe { [_mm256_set1_epi32(value); 2] }
    }

    #[inline(always)]
    fn load_u8(self, values: &[u8; 16]) -> [__m256i; 2] {
        // SAFETY: `self`; 16 bytes.
        unsafe {
            let bytes = _mm_loadu_si128(values.as_ptr().cast());
            [_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(bytes))]
        }
    }

    #[inline(always)]
    fn load_i8(self, values: &[u8; 16]) -> [__m256i; 2] {
        // SAFETY: `self`; 16 bytes.
        unsafe {
            let bytes = _mm_loadu_si128(values.as_ptr().cast());
            [_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes))]
        }
    }

    #[inline(always)]
    fn bits(self, values: [__m256i; 2], from: u32, count: u32) -> [__m256i; 2] {
        // SAFETY: `self`.
        unsafe {
            let (from, mask) = (_mm_cvtsi32_si128(from as i32), _mm256_set1_epi32((1 << count) - 1));
            let [low, high] = values;
            [_mm256_and_si256(_mm256_srl_epi32(low, from), mask), _mm256_and_si256(_mm256_srl_epi32(high, from), mask)]
        }
    }

    #[inline(always)]
    fn to_floats(self, values: [__m256i; 2]) -> [__m256; 2] {
        // SAFETY: `self`.
        unsafe { [_mm256_cvtepi32_ps(values[0]), _mm256_cvtepi32_ps(values[1])] }
    }

    #[inline(always)]
    fn load_bytes(self, bytes: &[u8; 64]) -> [__m256i; 2] {
        // SAFETY: `self`; 64 bytes.
        unsafe { [_mm256_loadu_si256(bytes.as_ptr().cast()), _mm256_loadu_si256(bytes.as_ptr().add(32).cast())] }
    }

    #[inline(always)]
    fn byte_bits(self, bytes: [__m256i; 2], from: u32, count: u32) -> [__m256i; 2] {
        // SAFETY: `self`.
        unsafe {
            let (from, mask) = (_mm_cvtsi32_si128(from as i32), _mm256_set1_epi8((1 << count) - 1));
            let [low, high] = bytes;
            [_mm256_and_si256(_mm256_srl_epi16(low, from), mask), _mm256_and_si256(_mm256_srl_epi16(high, from), mask)]
        }
    }

    #[inline(always)]
    fn join(self, low: [__m256i; 2], high: [__m256i; 2], by: u32) -> [__m256i; 2] {
        // SAFETY: `self`.
        unsafe {
            let by = _mm_cvtsi32_si128(by as i32);
            [
                _mm256_or_si256(low[0], _mm256_sll_epi16(high[0], by)),
                _mm256_or_si256(low[1], _mm256_sll_epi16(high[1], by)),
            ]
        }
    }

    #[inline(always)]
    fn dot16(self, sum: [__m256i; 2], codes: &[[__m256i; 2]; 4], x: &[[i8; 4]; 4], bits: usize) -> [__m256i; 2] {
        // SAFETY: `self`.
        unsafe {
            let x = [
                _mm256_set1_epi32(packed_bytes(x[0])),
                _mm256_set1_epi32(packed_bytes(x[1])),
                _mm256_set1_epi32(packed_bytes(x[2])),
                _mm256_set1_epi32(packed_bytes(x[3])),
            ];
            [
                dot16_half(sum[0], codes.map(|codes| codes[0]), x, bits),
                dot16_half(sum[1], codes.map(|codes| codes[1]), x, bits),
            ]
        }
    }
}

/// Lane `i` is the [`sum_of_eight`] of vector `i`.
#[inline]
#[target_feature(enable = "avx2")]
fn sums_of_eight(vectors: &[__m256; 8]) -> __m256 {
    let mut quarters = [_mm256_setzero_ps(); 4];
    for (i, quarter) in quarters.iter_mut().enumerate() {
        let (a, b) = (vectors[i], vectors[4 + i]);
        *quarter = _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b));
    }
    let [a, b, c, d] = quarters;
    let ab = _mm256_add_ps(_mm256_shuffle_ps::<0x44>(a, b), _mm256_shuffle_ps::<0xee>(a, b));
    let cd = _mm256_add_ps(_mm256_shuffle_ps::<0x44>(c, d), _mm256_shuffle_ps::<0xee>(c, d));
    _mm256_add_ps(_mm256_shuffle_ps::<0x88>(ab, cd), _mm256_shuffle_ps::<0xdd>(ab, cd))
}

/// Transposes 8×8: 4×4 blocks within each half of four rows, then the halves.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose_8x8(r: [__m256; 8]) -> [__m256; 8] {
    let mut quads = [_mm256_setzero_ps(); 8];
    for i in 0..2 {
        let (a, b, c, d) = (r[4 * i], r[4 * i + 1], r[4 * i + 2], r[4 * i + 3]);
        let (ab_low, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (cd_low, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        quads[4 * i] = _mm256_shuffle_ps::<0x44>(ab_low, cd_low);
        quads[4 * i + 1] = _mm256_shuffle_ps::<0xee>(ab_low, cd_low);
        quads[4 * i + 2] = _mm256_shuffle_ps::<0x44>(ab_high, cd_high);
        quads[4 * i + 3] = _mm256_shuffle_ps::<0xee>(ab_high, cd_high);
    }
    let mut columns = [_mm256_setzero_ps(); 8];
    for i in 0..4 {
        columns[i] = _mm256_permute2f128_ps::<0x20>(quads[i], quads[4 + i]);
        columns[4 + i] = _mm256_permute2f128_ps::<0x31>(quads[i], quads[4 + i]);
    }
    columns
}

/// Eight lanes of [`Lanes::dot16`]. `maddubs` adds pairs of products in 16 bits, at most `2·2^7·(2^b − 1)` for `b`-bit codes:
/// four such pairs fit for up to 5 bits, two for 6 bits, none for 8 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn dot16_half(sum: __m256i, codes: [__m256i; 4], x: [__m256i; 4], bits: usize) -> __m256i {
    let ones = _mm256_set1_epi16(1);
    if bits <= 6 {
        let first = _mm256_add_epi16(_mm256_maddubs_epi16(codes[0], x[0]), _mm256_maddubs_epi16(codes[1], x[1]));
        let second = _mm256_add_epi16(_mm256_maddubs_epi16(codes[2], x[2]), _mm256_maddubs_epi16(codes[3], x[3]));
        return if bits <= 5 {
            _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_add_epi16(first, second), ones))
        } else {
            let second = _mm256_madd_epi16(second, ones);
            _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_madd_epi16(first, ones), second))
        };
    }
    let sum = _mm256_add_epi32(sum, dot4_u8(codes[0], x[0]));
    let sum = _mm256_add_epi32(sum, dot4_u8(codes[1], x[1]));
    let sum = _mm256_add_epi32(sum, dot4_u8(codes[2], x[2]));
    _mm256_add_epi32(sum, dot4_u8(codes[3], x[3]))
}

/// Dot products of four full-range bytes: even and odd bytes widened to 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn dot4_u8(bytes: __m256i, x: __m256i) -> __m256i {
    let even_x = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x));
    let even = _mm256_madd_epi16(_mm256_and_si256(bytes, _mm256_set1_epi16(255)), even_x);
    let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(bytes), _mm256_srai_epi16::<8>(x));
    _mm256_add_epi32(even, odd)
}
