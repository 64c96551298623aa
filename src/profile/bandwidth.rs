//! The speed at which a device reads weights, measured: the roof of decoding.

use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};

use crate::kernel::linear::linear;

/// Inputs and outputs of the matrix: 64 MiB of float32, beyond the caches of most processors.
const IN_FEATURES: usize = 4096;
const OUT_FEATURES: usize = 4096;
/// Products that are timed; the fastest counts.
const REPETITIONS: usize = 8;

/// Bytes per second of a product of one float32 row with a large matrix, which does little but read it: the best of a few.
pub fn weight_bytes_per_s(device: &Device) -> f64 {
    let device = &device.clone().without_autodiff();
    let random = |shape| Tensor::<2>::random(shape, Distribution::Uniform(-1.0, 1.0), device);
    let (x, weight) = (random([1, IN_FEATURES]), random([IN_FEATURES, OUT_FEATURES]));
    let time_s = || {
        device.sync().expect("the device finishes its queue");
        let start = Instant::now();
        std::hint::black_box(linear(x.clone(), weight.clone()));
        device.sync().expect("the device finishes its queue");
        start.elapsed().as_secs_f64()
    };
    time_s();
    let fastest_s = (0..REPETITIONS).map(|_| time_s()).fold(f64::INFINITY, f64::min);
    (4 * IN_FEATURES * OUT_FEATURES) as f64 / fastest_s
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use super::*;

    #[test]
    fn a_device_reads_some_megabytes_a_second() {
        let found = weight_bytes_per_s(&Device::flex());
        assert!(found.is_finite() && found > 1e6, "{found}");
    }
}
