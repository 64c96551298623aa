//! The peaks of a device, measured with matrix products: those that utilization and bandwidth are shares of.

use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, Tensor};

use crate::kernel::linear::linear;

/// Rows, inputs and outputs of the product that computes: enough for every core, and some milliseconds on one.
const COMPUTING: [usize; 3] = [256, 1024, 1024];
/// Those of the product that reads: its matrix has 64 MiB of float32, beyond the caches of most processors.
const READING: [usize; 3] = [1, 4096, 4096];

/// Floating-point operations per second of a large matrix product, of float32 rows with float32 or bfloat16 weights: the best of a
/// few.
pub fn product_flops_per_s(device: &Device, in_bfloat16: bool) -> f64 {
    let dtype = if in_bfloat16 { DType::BF16 } else { DType::F32 };
    2.0 * COMPUTING.iter().product::<usize>() as f64 / fastest_product_s(COMPUTING, dtype, 3, device)
}

/// Bytes per second of a product of one float32 row with a large matrix, which does little but read it: the best of a few.
pub fn weight_bytes_per_s(device: &Device) -> f64 {
    4.0 * READING.iter().product::<usize>() as f64 / fastest_product_s(READING, DType::F32, 8, device)
}

/// Seconds of the fastest of some products, after one that is not timed.
fn fastest_product_s([rows, inputs, outputs]: [usize; 3], dtype: DType, repetitions: usize, device: &Device) -> f64 {
    let device = &device.clone().without_autodiff();
    let random = |shape| Tensor::<2>::random(shape, Distribution::Uniform(-1.0, 1.0), device);
    let (x, weight) = (random([rows, inputs]), random([inputs, outputs]).cast(dtype));
    let time_s = || {
        device.sync().expect("the device finishes its queue");
        let start = Instant::now();
        std::hint::black_box(linear(x.clone(), weight.clone()));
        device.sync().expect("the device finishes its queue");
        start.elapsed().as_secs_f64()
    };
    time_s();
    (0..repetitions).map(|_| time_s()).fold(f64::INFINITY, f64::min)
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

    #[test]
    fn a_device_reads_some_megabytes_a_second() {
        let found = weight_bytes_per_s(&Device::flex());
        assert!(found.is_finite() && found > 1e6, "{found}");
    }
}
