//! Lanes in AVX-512 with VNNI, and in AVX2.
#![expect(
    unsafe_code,
    reason = "intrinsics of instructions that not every CPU has; a value of the type says that this one does"
)]

use std::arch::x86_64::*;

use super::{Lanes, WithLanes};

/// One register for sixteen lanes. Exists only where the CPU has AVX-512 F, BW, VL and VNNI.
#[derive(Clone, Copy)]
pub struct Avx512(());

/// Two registers for sixteen lanes. Exists only where the CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub struct Avx2(());

/// The widest lanes of a CPU.
pub enum Found {
    Avx512(Avx512),
    Avx2(Avx2),
}

/// What this CPU has; the standard library asks it once.
#[inline]
pub fn detect() -> Option<Found> {
    Avx512::detect().map(Found::Avx512).or_else(|| Avx2::detect().map(Found::Avx2))
}

/// Asks for the cache line at an address, which may be any.
#[inline(always)]
pub fn prefetch<T>(address: *const T) {
    // SAFETY: every CPU of this kind has the hint, which reads nothing and never faults.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
}

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

    /// Runs a kernel compiled for these lanes.
    pub fn run(self, kernel: impl WithLanes) {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
        fn compiled(lanes: Avx512, kernel: impl WithLanes) {
            kernel.with_lanes(lanes);
        }
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { compiled(self, kernel) }
    }
}

impl Avx2 {
    #[inline]
    pub fn detect() -> Option<Self> {
        let found =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }

    /// Runs a kernel compiled for these lanes.
    pub fn run(self, kernel: impl WithLanes) {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn compiled(lanes: Avx2, kernel: impl WithLanes) {
            kernel.with_lanes(lanes);
        }
        // SAFETY: `self` exists, so the CPU has the features.
        unsafe { compiled(self, kernel) }
    }
}

// In both implementations each `unsafe` block calls intrinsics of the features that the existence of `self` proves;
// those that take pointers read or write just the array behind the reference that the pointer comes from, unaligned.

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
            // Squares of four within each quarter of four rows, then the quarters.
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
        // Spelled out: a loop would keep the codes in memory.
        // SAFETY: `self`.
        unsafe {
            let sum = _mm512_dpbusd_epi32(sum, codes[0], _mm512_set1_epi32(four(x[0])));
            let sum = _mm512_dpbusd_epi32(sum, codes[1], _mm512_set1_epi32(four(x[1])));
            let sum = _mm512_dpbusd_epi32(sum, codes[2], _mm512_set1_epi32(four(x[2])));
            _mm512_dpbusd_epi32(sum, codes[3], _mm512_set1_epi32(four(x[3])))
        }
    }
}

/// Lane `i` plus `i + 4`, then `i + 2`, then `i + 1`.
#[inline]
#[target_feature(enable = "avx2")]
fn sum_of_eight(values: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps::<1>(values));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// In lane `i` the [`sum_of_eight`] of the vector `i`, of eight.
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
        // SAFETY: `self`; twice eight numbers of 2 bytes.
        unsafe {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(bytes.as_ptr().cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(bytes.as_ptr().add(16).cast()));
            [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high))]
        }
    }

    #[inline(always)]
    fn load_f16(self, bytes: &[u8; 32]) -> [__m256; 2] {
        // SAFETY: `self`; twice eight numbers of 2 bytes.
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
        let given = *rows;
        for (row, column) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
            // SAFETY: `self`; every load and store is of eight numbers of one row.
            unsafe {
                let mut r = [_mm256_setzero_ps(); 8];
                for (i, r) in r.iter_mut().enumerate() {
                    *r = _mm256_loadu_ps(given[row + i][column..column + 8].as_ptr());
                }
                for (i, r) in transposed_eight(r).into_iter().enumerate() {
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
                _mm256_set1_epi32(four(x[0])),
                _mm256_set1_epi32(four(x[1])),
                _mm256_set1_epi32(four(x[2])),
                _mm256_set1_epi32(four(x[3])),
            ];
            [
                half_dot16(sum[0], codes.map(|codes| codes[0]), x, bits),
                half_dot16(sum[1], codes.map(|codes| codes[1]), x, bits),
            ]
        }
    }
}

/// Rows of eight become columns: squares of four within each half of four rows, then the halves.
#[inline]
#[target_feature(enable = "avx2")]
fn transposed_eight(r: [__m256; 8]) -> [__m256; 8] {
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

/// Four bytes as one number, in memory order.
#[inline(always)]
fn four(bytes: [i8; 4]) -> i32 {
    i32::from_ne_bytes(bytes.map(|byte| byte as u8))
}

/// Eight lanes of [`Lanes::dot16`]. Products are added in pairs in 16 bits: of codes of `b` bits at most `2·2^7·(2^b − 1)`,
/// so that four such sums fit up to 5 bits and two up to 6; those of 8 bits do not fit alone.
#[inline]
#[target_feature(enable = "avx2")]
fn half_dot16(sum: __m256i, codes: [__m256i; 4], x: [__m256i; 4], bits: usize) -> __m256i {
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
    let sum = _mm256_add_epi32(sum, dot4_of_bytes(codes[0], x[0]));
    let sum = _mm256_add_epi32(sum, dot4_of_bytes(codes[1], x[1]));
    let sum = _mm256_add_epi32(sum, dot4_of_bytes(codes[2], x[2]));
    _mm256_add_epi32(sum, dot4_of_bytes(codes[3], x[3]))
}

/// Products of four bytes of any size: even and odd bytes as numbers of 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn dot4_of_bytes(bytes: __m256i, x: __m256i) -> __m256i {
    let even_x = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x));
    let even = _mm256_madd_epi16(_mm256_and_si256(bytes, _mm256_set1_epi16(255)), even_x);
    let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(bytes), _mm256_srai_epi16::<8>(x));
    _mm256_add_epi32(even, odd)
}
