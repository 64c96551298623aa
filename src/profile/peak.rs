//! The speed of matrix products on a device, measured: the peak that utilization is a share of.

use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, Tensor};

use crate::kernel::linear::linear;

/// Rows, inputs and outputs of the product: enough for every core, and some milliseconds on one.
const ROWS: usize = 256;
const FEATURES: usize = 1024;
/// Products that are timed; the fastest counts.
const REPETITIONS: usize = 3;

/// Floating-point operations per second of a large matrix product, of float32 rows with float32 or bfloat16 weights: the best of a
/// few.
pub fn product_flops_per_s(device: &Device, in_bfloat16: bool) -> f64 {
    let device = &device.clone().without_autodiff();
    let dtype = if in_bfloat16 { DType::BF16 } else { DType::F32 };
    let random = |shape| Tensor::<2>::random(shape, Distribution::Uniform(-1.0, 1.0), device);
    let (x, weight) = (random([ROWS, FEATURES]), random([FEATURES, FEATURES]).cast(dtype));
    let time_s = || {
        device.sync().expect("the device finishes its queue");
        let start = Instant::now();
        std::hint::black_box(linear(x.clone(), weight.clone()));
        device.sync().expect("the device finishes its queue");
        start.elapsed().as_secs_f64()
    };
    time_s();
    let fastest_s = (0..REPETITIONS).map(|_| time_s()).fold(f64::INFINITY, f64::min);
    2.0 * (ROWS * FEATURES * FEATURES) as f64 / fastest_s
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use super::*;

    #[test]
    fn a_device_multiplies_some_millions_a_second() {
        let found = product_flops_per_s(&Device::flex(), false);
        assert!(found.is_finite() && found > 1e6, "{found}");
    }
}
