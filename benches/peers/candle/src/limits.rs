//! What the machine itself can do: multiply-adds of `f32` in registers, and reading memory.
//!
//! Both with the widest vectors that the processor has, on the given number of threads, each thread timed over the same
//! span. Every figure that the comparison calls a limit is one of these, taken in the same run as what it limits.

use std::sync::Barrier;
use std::time::Instant;

/// The names of the vector widths, by [`simd`].
pub const SIMD_NAMES: [&str; 3] = ["baseline", "avx2+fma", "avx512f"];

/// The widest vectors here, as an index of [`SIMD_NAMES`].
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

/// The best of several spans: what others on the machine take away is no limit of it.
pub fn best_of(per_second: impl Fn() -> f64) -> f64 {
    (0..5).map(|_| per_second()).fold(0.0, f64::max)
}

/// Seconds from the first thread's start to the last one's end. Each takes its own times: a thread that waits for them may
/// itself have to wait for a core, and would see too little.
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

/// A buffer far larger than any cache.
pub struct Memory(Vec<u64>);

impl Memory {
    /// `bytes` of memory, every page touched.
    pub fn new(bytes: usize) -> Self {
        Self((0..bytes as u64 / 8).collect())
    }

    /// Bytes a second that `threads` threads read, each its own part, four streams a thread.
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

/// Reads all of a slice, as four streams side by side.
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
