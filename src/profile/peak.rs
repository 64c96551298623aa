//! The peaks of a device, measured with matrix products: those that utilization and bandwidth are shares of.

use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, Tensor};

use crate::kernel::linear::linear;

/// Rows, inputs and outputs of the products that compute, from some milliseconds on a core to one that occupies a GPU.
const COMPUTING: [[usize; 3]; 3] = [[256, 1024, 1024], [2048, 4096, 4096], [4096, 8192, 8192]];
/// Those of the products that read: matrices of 64 and 256 MiB of float32, beyond the caches of most devices.
const READING: [[usize; 3]; 2] = [[1, 4096, 4096], [1, 8192, 8192]];
/// A product that takes less is dominated by the overhead of its launch.
const ENOUGH_S: f64 = 5e-4;
/// Products between two synchronizations, so that a GPU computes one while the next is launched.
const NUM_QUEUED: usize = 4;

/// Floating-point operations per second of a large matrix product, of float32 rows with float32 or bfloat16 weights: the best of a
/// few.
pub fn product_flops_per_s(device: &Device, in_bfloat16: bool) -> f64 {
    let dtype = if in_bfloat16 { DType::BF16 } else { DType::F32 };
    let (shape, seconds) = fastest_product(&COMPUTING, dtype, 3, device);
    2.0 * shape.iter().product::<usize>() as f64 / seconds
}

/// Whether the device supports bfloat16.
pub fn has_bfloat16(device: &Device) -> bool {
    device.supports_dtype(DType::BF16)
}

/// Bytes per second of a product of one float32 row with a large matrix, which does little but read it: the best of a few.
pub fn weight_bytes_per_s(device: &Device) -> f64 {
    let ([_, inputs, outputs], seconds) = fastest_product(&READING, DType::F32, 8, device);
    4.0 * (inputs * outputs) as f64 / seconds
}

/// The first of these products that takes long enough, else the last one, and its seconds.
fn fastest_product(shapes: &[[usize; 3]], dtype: DType, repetitions: usize, device: &Device) -> ([usize; 3], f64) {
    let timed = |shape: &[usize; 3]| (*shape, fastest_product_s(*shape, dtype, repetitions, device));
    let (last, smaller) = shapes.split_last().expect("a shape");
    smaller.iter().map(timed).find(|(_, seconds)| *seconds >= ENOUGH_S).unwrap_or_else(|| timed(last))
}

/// Seconds of a product, the fastest of some timings after one that does not count.
fn fastest_product_s([rows, inputs, outputs]: [usize; 3], dtype: DType, repetitions: usize, device: &Device) -> f64 {
    let device = &device.clone().without_autodiff();
    let random = |shape| Tensor::<2>::random(shape, Distribution::Uniform(-1.0, 1.0), device);
    let (x, weight) = (random([rows, inputs]), random([inputs, outputs]).cast(dtype));
    let time_s = || {
        device.sync().expect("the device finishes its queue");
        let start = Instant::now();
        for _ in 0..NUM_QUEUED {
            std::hint::black_box(linear(x.clone(), weight.clone()));
        }
        device.sync().expect("the device finishes its queue");
        start.elapsed().as_secs_f64() / NUM_QUEUED as f64
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
