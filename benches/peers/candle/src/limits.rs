//! Machine limits: f32 multiply-adds in registers, and memory bandwidth.
//!
//! Both use the widest vectors of this CPU on the given number of threads. The comparison takes them in the same run as the
//! figures that they bound.

use std::sync::Barrier;
use std::time::Instant;

/// Names of the vector extensions, indexed by [`simd`].
pub const SIMD_NAMES: [&str; 3] = ["baseline", "avx2+fma", "avx512f"];

/// Widest vector extension of this CPU, as an index into [`SIMD_NAMES`].
pub fn simd() -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return 2;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return 1;
        }
    }
    0
}

/// The best of five measurements: interference from other processes does not lower the limit.
pub fn best_of(per_second: impl Fn() -> f64) -> f64 {
    (0..5).map(|_| per_second()).fold(0.0, f64::max)
}

/// Seconds from the first thread's start to the last thread's end. Each thread takes its own times: a coordinating thread may
/// itself wait for a core, and would measure too little.
fn seconds_on(threads: usize, work: impl Fn(usize) + Sync) -> f64 {
    let barrier = Barrier::new(threads);
    let timed = |thread| {
        barrier.wait();
        let start = Instant::now();
        work(thread);
        (start, Instant::now())
    };
    std::thread::scope(|scope| {
        let timed = &timed;
        let workers: Vec<_> = (0..threads).map(|thread| scope.spawn(move || timed(thread))).collect();
        let times = workers.into_iter().map(|worker| worker.join().expect("the probe's thread has nothing to fail on"));
        let (first, last) =
            times.reduce(|(a, b), (start, end)| (a.min(start), b.max(end))).expect("at least one thread");
        last.duration_since(first).as_secs_f64()
    })
}

const FMA_ROUNDS: usize = 20_000_000;
const CHAINS: usize = 12;

/// `ROUNDS` multiply-adds on each of [`CHAINS`] independent vectors of `LANES`, all in registers.
#[inline(always)]
fn chains<const LANES: usize>(rounds: usize) -> f32 {
    let (scale, shift) = (std::hint::black_box(0.999_f32), std::hint::black_box(0.001_f32));
    let mut sums = [[1.0_f32; LANES]; CHAINS];
    for _ in 0..rounds {
        for sum in &mut sums {
            for lane in sum {
                *lane = lane.mul_add(scale, shift);
            }
        }
    }
    sums.iter().flatten().sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn chains_avx512(rounds: usize) -> f32 {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_reduce_add_ps, _mm512_set1_ps};
    let (scale, shift) = (_mm512_set1_ps(std::hint::black_box(0.999)), _mm512_set1_ps(std::hint::black_box(0.001)));
    let mut sums = [_mm512_set1_ps(1.0); CHAINS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, scale, shift);
        }
    }
    sums.iter().map(|&sum| _mm512_reduce_add_ps(sum)).sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn chains_avx2(rounds: usize) -> f32 {
    use std::arch::x86_64::{_mm256_cvtss_f32, _mm256_fmadd_ps, _mm256_set1_ps};
    let (scale, shift) = (_mm256_set1_ps(std::hint::black_box(0.999)), _mm256_set1_ps(std::hint::black_box(0.001)));
    let mut sums = [_mm256_set1_ps(1.0); CHAINS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, scale, shift);
        }
    }
    sums.iter().map(|&sum| _mm256_cvtss_f32(sum)).sum()
}

/// FLOP/s of multiply-adds (two FLOPs each) on `threads` threads.
pub fn fma_per_second(threads: usize) -> f64 {
    let (lanes, run): (usize, fn(usize) -> f32) = match simd() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `simd` found the features.
        2 => (16, |rounds| unsafe { chains_avx512(rounds) }),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `simd` found the features.
        1 => (8, |rounds| unsafe { chains_avx2(rounds) }),
        _ => (4, chains::<4>),
    };
    let seconds = seconds_on(threads, |_| {
        std::hint::black_box(run(FMA_ROUNDS));
    });
    (2 * lanes * CHAINS * FMA_ROUNDS * threads) as f64 / seconds
}

/// A buffer much larger than any cache.
pub struct Memory(Vec<u64>);

impl Memory {
    /// `bytes` of memory, every page touched.
    pub fn new(bytes: usize) -> Self {
        Self((0..bytes as u64 / 8).collect())
    }

    /// Bytes per second read by `threads` threads, each its own part in four streams.
    pub fn read_per_second(&self, threads: usize) -> f64 {
        let part = self.0.len() / threads;
        let run: fn(&[u64]) -> u64 = match simd() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `simd` found the feature.
            2 => |part| unsafe { read_avx512(part) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `simd` found the feature.
            1 => |part| unsafe { read_avx2(part) },
            _ => read,
        };
        let seconds = seconds_on(threads, |thread| {
            std::hint::black_box(run(&self.0[thread * part..(thread + 1) * part]));
        });
        (part * threads * 8) as f64 / seconds
    }
}

/// Reads a slice as four concurrent streams.
#[inline(always)]
fn read(part: &[u64]) -> u64 {
    const BLOCK: usize = 64;
    let quarter = part.len() / 4 / BLOCK * BLOCK;
    let mut sums = [0_u64; BLOCK];
    for at in (0..quarter).step_by(BLOCK) {
        for stream in 0..4 {
            let start = stream * quarter + at;
            for (sum, &number) in sums.iter_mut().zip(&part[start..start + BLOCK]) {
                *sum ^= number;
            }
        }
    }
    sums.iter().fold(0, |all, sum| all ^ sum)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn read_avx512(part: &[u64]) -> u64 {
    read(part)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn read_avx2(part: &[u64]) -> u64 {
    read(part)
}
