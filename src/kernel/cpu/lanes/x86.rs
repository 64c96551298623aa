//! Instructions that both kinds of x86 lanes use.
#![expect(unsafe_code, reason = "intrinsics")]

use std::arch::x86_64::*;

/// Prefetches the cache line at `address`, which need not be mapped.
#[inline(always)]
pub fn prefetch<T>(address: *const T) {
    // SAFETY: every x86-64 CPU has the hint, which reads nothing and never faults.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
}

/// Lane `i` plus `i + 4`, then `i + 2`, then `i + 1`.
#[inline]
#[target_feature(enable = "avx2")]
pub fn sum_of_eight(values: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps::<1>(values));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// Four bytes as one integer in memory order, to be broadcast.
#[inline(always)]
pub fn packed_bytes(bytes: [i8; 4]) -> i32 {
    i32::from_ne_bytes(bytes.map(|byte| byte as u8))
}
