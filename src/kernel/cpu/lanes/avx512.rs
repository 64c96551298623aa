//! Lanes in AVX-512 with VNNI: one register for sixteen lanes.
#![expect(
    unsafe_code,
    reason = "intrinsics of instructions that not every CPU has; a value of the type proves that this one does"
)]

use std::arch::x86_64::*;

use super::avx2::Avx2;
use super::traits::{Lanes, WithLanes};
use super::x86::{packed_bytes, prefetch, sum_of_eight};

/// Proof that the CPU has AVX-512 F, BW, VL and VNNI.
#[derive(Clone, Copy)]
pub struct Avx512(());

impl Avx512 {
    #[inline]
    pub fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && Avx2::detect().is_some();
        found.then_some(Self(()))
    }

    /// Runs a kernel compiled for these instructions.
    pub fn run(self, kernel: impl WithLanes) {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
        fn compiled(lanes: Avx512, kernel: impl WithLanes) {
            kernel.with_lanes(lanes);
        }
        // SAFETY: the existence of `self` proves the features.
        unsafe { compiled(self, kernel) }
    }
}

// Each `unsafe` block calls intrinsics of the CPU features that the existence of `self` proves. Those that take pointers read
// or write only the array behind the reference that the pointer comes from, unaligned.

impl Lanes for Avx512 {
    const REGISTERS: usize = 32;
    type Floats = __m512;
    type Ints = __m512i;
    type Bytes = __m512i;

    #[inline(always)]
    fn prefetch<T>(self, address: *const T) {
        prefetch(address);
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: `self`.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, values: &[f32; 16]) -> __m512 {
        // SAFETY: `self`; sixteen floats.
        unsafe { _mm512_loadu_ps(values.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, values: __m512, to: &mut [f32; 16]) {
        // SAFETY: `self`; sixteen floats.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), values) }
    }

    #[inline(always)]
    fn load_bf16(self, bytes: &[u8; 32]) -> __m512 {
        // SAFETY: `self`; 32 bytes.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(bytes.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    fn load_f16(self, bytes: &[u8; 32]) -> __m512 {
        // SAFETY: `self`; 32 bytes.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(bytes.as_ptr().cast())) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self`.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self`.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn transpose(self, rows: &mut [[f32; 16]; 16]) {
        // SAFETY: `self`; every load and store is of one row.
        unsafe {
            let mut r = [_mm512_setzero_ps(); 16];
            for (r, row) in r.iter_mut().zip(rows.iter()) {
                *r = _mm512_loadu_ps(row.as_ptr());
            }
            // 4×4 blocks within each quarter of four rows, then the quarters.
            let mut quads = [_mm512_setzero_ps(); 16];
            for i in 0..4 {
                let (a, b, c, d) = (r[4 * i], r[4 * i + 1], r[4 * i + 2], r[4 * i + 3]);
                let (ab_low, ab_high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
                let (cd_low, cd_high) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
                quads[4 * i] = _mm512_shuffle_ps::<0x44>(ab_low, cd_low);
                quads[4 * i + 1] = _mm512_shuffle_ps::<0xee>(ab_low, cd_low);
                quads[4 * i + 2] = _mm512_shuffle_ps::<0x44>(ab_high, cd_high);
                quads[4 * i + 3] = _mm512_shuffle_ps::<0xee>(ab_high, cd_high);
            }
            for j in 0..4 {
                let (a, b, c, d) = (quads[j], quads[4 + j], quads[8 + j], quads[12 + j]);
                let (ab_low, ab_high) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
                let (cd_low, cd_high) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
                r[j] = _mm512_shuffle_f32x4::<0x88>(ab_low, cd_low);
                r[4 + j] = _mm512_shuffle_f32x4::<0x88>(ab_high, cd_high);
                r[8 + j] = _mm512_shuffle_f32x4::<0xdd>(ab_low, cd_low);
                r[12 + j] = _mm512_shuffle_f32x4::<0xdd>(ab_high, cd_high);
            }
            for (r, row) in r.iter().zip(rows.iter_mut()) {
                _mm512_storeu_ps(row.as_mut_ptr(), *r);
            }
        }
    }

    #[inline(always)]
    fn sum(self, values: __m512) -> f32 {
        // SAFETY: `self`.
        unsafe {
            let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(values)));
            sum_of_eight(_mm256_add_ps(_mm512_castps512_ps256(values), high))
        }
    }

    #[inline(always)]
    fn sums(self, vectors: &[__m512; 16]) -> __m512 {
        // SAFETY: `self`.
        unsafe {
            let mut quarters = [_mm512_setzero_ps(); 4];
            for (i, quarter) in quarters.iter_mut().enumerate() {
                // Halves of two vectors, then quarters of four.
                let (a, b, c, d) = (vectors[i], vectors[4 + i], vectors[8 + i], vectors[12 + i]);
                let ab = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b));
                let cd = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(c, d), _mm512_shuffle_f32x4::<0xee>(c, d));
                *quarter = _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xdd>(ab, cd));
            }
            let [a, b, c, d] = quarters;
            let ab = _mm512_add_ps(_mm512_shuffle_ps::<0x44>(a, b), _mm512_shuffle_ps::<0xee>(a, b));
            let cd = _mm512_add_ps(_mm512_shuffle_ps::<0x44>(c, d), _mm512_shuffle_ps::<0xee>(c, d));
            _mm512_add_ps(_mm512_shuffle_ps::<0x88>(ab, cd), _mm512_shuffle_ps::<0xdd>(ab, cd))
        }
    }

    #[inline(always)]
    fn splat_int(self, value: i32) -> __m512i {
        // SAFETY: `self`.
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    fn load_u8(self, values: &[u8; 16]) -> __m512i {
        // SAFETY: `self`; 16 bytes.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(values.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_i8(self, values: &[u8; 16]) -> __m512i {
        // SAFETY: `self`; 16 bytes.
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(values.as_ptr().cast())) }
    }

    #[inline(always)]
    fn bits(self, values: __m512i, from: u32, count: u32) -> __m512i {
        // SAFETY: `self`.
        unsafe {
            let shifted = _mm512_srl_epi32(values, _mm_cvtsi32_si128(from as i32));
            _mm512_and_si512(shifted, _mm512_set1_epi32((1 << count) - 1))
        }
    }

    #[inline(always)]
    fn to_floats(self, values: __m512i) -> __m512 {
        // SAFETY: `self`.
        unsafe { _mm512_cvtepi32_ps(values) }
    }

    #[inline(always)]
    fn load_bytes(self, bytes: &[u8; 64]) -> __m512i {
        // SAFETY: `self`; 64 bytes.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    }

    #[inline(always)]
    fn byte_bits(self, bytes: __m512i, from: u32, count: u32) -> __m512i {
        // SAFETY: `self`.
        unsafe {
            let shifted = _mm512_srl_epi16(bytes, _mm_cvtsi32_si128(from as i32));
            _mm512_and_si512(shifted, _mm512_set1_epi8((1 << count) - 1))
        }
    }

    #[inline(always)]
    fn join(self, low: __m512i, high: __m512i, by: u32) -> __m512i {
        // SAFETY: `self`.
        unsafe { _mm512_or_si512(low, _mm512_sll_epi16(high, _mm_cvtsi32_si128(by as i32))) }
    }

    #[inline(always)]
    fn dot16(self, sum: __m512i, codes: &[__m512i; 4], x: &[[i8; 4]; 4], _bits: usize) -> __m512i {
        // Unrolled by hand: a loop keeps the codes in memory.
        // SAFETY: `self`.
        unsafe {
            let sum = _mm512_dpbusd_epi32(sum, codes[0], _mm512_set1_epi32(packed_bytes(x[0])));
            let sum = _mm512_dpbusd_epi32(sum, codes[1], _mm512_set1_epi32(packed_bytes(x[1])));
            let sum = _mm512_dpbusd_epi32(sum, codes[2], _mm512_set1_epi32(packed_bytes(x[2])));
            _mm512_dpbusd_epi32(sum, codes[3], _mm512_set1_epi32(packed_bytes(x[3])))
        }
    }
}
