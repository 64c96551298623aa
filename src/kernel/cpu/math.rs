//! Elementwise functions that the compiler can vectorize, and [`vectorized!`], which compiles a loop for this CPU.

use pulp::Arch;

/// Evaluates an expression compiled for the widest vectors of this CPU: AVX-512, AVX2 + FMA, NEON, or the baseline.
///
/// A macro, because the closure must be `#[inline(always)]`: an outlined one is compiled for the baseline, which cost a third
/// of the decoding speed.
macro_rules! vectorized {
    ($body:expr) => {
        $crate::kernel::cpu::dispatch(
            #[inline(always)]
            || $body,
        )
    };
}
pub(in crate::kernel) use vectorized;

/// The function behind [`vectorized!`].
#[inline(always)]
pub(in crate::kernel) fn dispatch<R>(body: impl FnOnce() -> R) -> R {
    Arch::new().dispatch(body)
}

/// `e^x` by range reduction to `[-ln2/2, ln2/2]` and a polynomial of degree 6: branch-free, within 2 ulp on [-87, 88],
/// saturating outside.
#[inline(always)]
pub(in crate::kernel) fn exp(x: f32) -> f32 {
    // Adding 1.5·2^23 leaves the nearest integer in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_145_75;
    const LN2_LOW: f32 = 1.428_606_8e-6;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let power = shifted - ROUND;
    let r = power.mul_add(-LN2_LOW, power.mul_add(-LN2_HIGH, x));
    let mut p = 1.0 / 720.0;
    p = r.mul_add(p, 1.0 / 120.0);
    p = r.mul_add(p, 1.0 / 24.0);
    p = r.mul_add(p, 1.0 / 6.0);
    p = r.mul_add(p, 0.5);
    p = r.mul_add(p, 1.0);
    p = r.mul_add(p, 1.0);
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_shl(23);
    f32::from_bits(p.to_bits().wrapping_add(exponent))
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `x · sigmoid(x)`.
#[inline(always)]
pub(in crate::kernel) fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

/// `gate = silu(gate) ∘ up`.
pub(in crate::kernel) fn silu_times(gate: &mut [f32], up: &[f32]) {
    vectorized!(gate.iter_mut().zip(up).for_each(|(gate, up)| *gate = silu(*gate) * up));
}

/// `(silu(x), silu'(x))`, with `silu' = s + x·s·(1 − s)`.
#[inline(always)]
pub(in crate::kernel) fn silu_derivative(x: f32) -> (f32, f32) {
    let s = sigmoid(x);
    (x * s, (x * s).mul_add(1.0 - s, s))
}

/// Sum in 16 interleaved lanes, in the same order for every vector width. `term` should be cheap: it is unrolled 16 times.
#[inline(always)]
pub(in crate::kernel) fn sum_by(len: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; 16];
    let tail = len / 16 * 16;
    for start in (0..tail).step_by(16) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(start + lane);
        }
    }
    for i in tail..len {
        lanes[i - tail] += term(i);
    }
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

/// Largest element; −∞ for an empty slice.
#[inline(always)]
fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let chunks = values.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = lane.max(*value);
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, b| a.max(*b))
}

/// `row = e^(row − max)`; returns `max` and the sum.
#[inline(always)]
pub(in crate::kernel) fn exponentials_in_place(row: &mut [f32]) -> (f32, f32) {
    let max = max(row);
    for value in row.iter_mut() {
        *value = exp(*value - max);
    }
    (max, sum_by(row.len(), |i| row[i]))
}

/// `row = softmax(row)`.
#[inline(always)]
pub(in crate::kernel) fn softmax_in_place(row: &mut [f32]) {
    let (_, total) = exponentials_in_place(row);
    let scale = 1.0 / total;
    for value in row.iter_mut() {
        *value *= scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp() {
        let worst = (0..2_000_000)
            .map(|i| -87.0 + 175.0 * i as f32 / 2_000_000.0)
            .map(|x| ((f64::from(exp(x)) - f64::from(x).exp()) / f64::from(x).exp()).abs())
            .fold(0.0, f64::max);
        assert!(worst < 2.5 * f64::from(f32::EPSILON), "worst relative error {worst:e}");
    }

    #[test]
    fn exp_saturates_instead_of_overflowing() {
        assert_eq!(exp(f32::NEG_INFINITY), exp(-87.0));
        assert!(exp(1e30).is_finite());
    }

    #[test]
    fn a_vectorized_sum_equals_the_scalar_sum_bit_for_bit() {
        let values: Vec<f32> = (0..1003).map(|i| (i as f32 * 0.37).sin()).collect();
        let plain = sum_by(values.len(), |i| values[i]);
        assert_eq!(vectorized!(sum_by(values.len(), |i| values[i])).to_bits(), plain.to_bits());
    }

    #[test]
    fn softmax_divides_exponentials_by_their_sum() {
        let mut row: Vec<f32> = (0..37).map(|i| (i as f32).cos() * 5.0).collect();
        let total = row.iter().map(|v| f64::from(*v).exp()).sum::<f64>();
        let (largest, shifted) = exponentials_in_place(&mut row.clone());
        assert!((f64::from(largest + shifted.ln()) - total.ln()).abs() < 1e-5);
        let expected: Vec<f64> = row.iter().map(|v| f64::from(*v).exp() / total).collect();
        softmax_in_place(&mut row);
        assert!(row.iter().zip(expected).all(|(found, expected)| (f64::from(*found) - expected).abs() < 1e-6));
    }
}
