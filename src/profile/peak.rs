//! The peaks of a device, measured with matrix products: those that utilization and bandwidth are shares of.

use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, Tensor};

use super::hardware::Hardware;
use crate::kernel::linear::{Weight, linear_all, type_of_activations};
use crate::weights::Dtype;

/// Rows, inputs and outputs of the products that compute, from some milliseconds on a core to one that occupies a GPU.
const COMPUTING: [[usize; 3]; 3] = [[256, 1024, 1024], [2048, 4096, 4096], [4096, 8192, 8192]];
/// Those of the products that read: matrices of 64 and 256 MiB of float32, beyond the caches of most devices, and of 2 GiB,
/// which takes a fast GPU long enough.
const READING: [[usize; 3]; 3] = [[1, 4096, 4096], [1, 8192, 8192], [1, 32768, 16384]];
/// Those of [`READING`] for all devices: the last exceeds a buffer of WebGPU, and perhaps the memory of a CPU.
const NUM_READING: usize = 2;
/// A product that takes less is dominated by the overhead of its launch.
const ENOUGH_S: f64 = 5e-4;
/// Products between two synchronizations, so that a GPU computes one while the next is launched: as many as take
/// [`QUEUE_S`], within these bounds.
const NUM_QUEUED: [usize; 2] = [4, 64];
/// Time compared with which a synchronization is short.
const QUEUE_S: f64 = 4.0 * ENOUGH_S;
/// Time over which a product is repeated: longer than another program on the machine usually has a core without a break.
const MEASURING_S: f64 = 0.25;

/// The peaks of a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peaks {
    /// [`product_flops_per_s`] with float32 weights.
    pub flops_per_s: f64,
    /// The same with the 16-bit weights of the model, and their type; `None` if it was not measured.
    pub half: Option<(Dtype, f64)>,
    /// [`weight_bytes_per_s`].
    pub bytes_per_s: f64,
}

impl Peaks {
    /// Measures the peaks that a model with weights of this type can reach.
    pub fn measure(weights: Dtype, device: &Device) -> Self {
        Self {
            flops_per_s: product_flops_per_s(Dtype::Float32, device),
            half: has_peak_of(weights, device).then(|| (weights, product_flops_per_s(weights, device))),
            bytes_per_s: weight_bytes_per_s(device),
        }
    }

    /// The larger of two measurements of each peak: other programs only lower them.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        let larger = |a: (Dtype, f64), b: (Dtype, f64)| {
            debug_assert_eq!(a.0, b.0, "peaks of one model");
            if b.1 > a.1 { b } else { a }
        };
        Self {
            flops_per_s: self.flops_per_s.max(other.flops_per_s),
            half: [self.half, other.half].into_iter().flatten().reduce(larger),
            bytes_per_s: self.bytes_per_s.max(other.bytes_per_s),
        }
    }

    /// The peak of products with weights of this type, and the type with which it was measured: this one or float32.
    pub fn of_products(&self, weights: Dtype) -> (f64, Dtype) {
        let of_half = self.of_half(weights).map(|flops_per_s| (flops_per_s, weights));
        of_half.unwrap_or((self.flops_per_s, Dtype::Float32))
    }

    /// [`half`](Self::half) if it was measured with weights of this type.
    pub fn of_half(&self, weights: Dtype) -> Option<f64> {
        self.half.and_then(|(dtype, flops_per_s)| (dtype == weights).then_some(flops_per_s))
    }
}

/// Whether products with 16-bit weights of this type have a peak of their own: the device supports bfloat16, or does not widen float16.
pub fn has_peak_of(half: Dtype, device: &Device) -> bool {
    match half {
        Dtype::Bfloat16 => device.supports_dtype(DType::BF16),
        Dtype::Float16 => type_of_activations(DType::F16, device) == DType::F16,
        _ => false,
    }
}

/// Floating-point operations per second of a large product of float32 rows with bfloat16 or float16 weights, or with float32 weights for
/// every other type: the best within a quarter of a second, and of a few at least. Weights have values of bfloat16.
pub fn product_flops_per_s(weights: Dtype, device: &Device) -> f64 {
    let dtype = match weights {
        Dtype::Bfloat16 => DType::BF16,
        Dtype::Float16 => DType::F16,
        _ => DType::F32,
    };
    let (shape, seconds) = fastest_product(&COMPUTING, dtype, 3, device);
    2.0 * shape.iter().product::<usize>() as f64 / seconds
}

/// Bytes per second of a product of one float32 row with a large matrix, which does little but read it: the best as for
/// [`product_flops_per_s`].
pub fn weight_bytes_per_s(device: &Device) -> f64 {
    let shapes = match Hardware::of(device) {
        Hardware::NvidiaGpu => &READING[..],
        Hardware::Processor | Hardware::Other => &READING[..NUM_READING],
    };
    let ([_, inputs, outputs], seconds) = fastest_product(shapes, DType::F32, 8, device);
    4.0 * (inputs * outputs) as f64 / seconds
}

/// The first of these shapes whose product takes long enough, else the last one, and the seconds of its fastest product.
fn fastest_product(shapes: &[[usize; 3]], dtype: DType, repetitions: usize, device: &Device) -> ([usize; 3], f64) {
    let timed = |shape: &[usize; 3]| {
        let product = Product::new(*shape, dtype, device);
        let first_s = product.first_s();
        (product, first_s)
    };
    let (last, smaller) = shapes.split_last().expect("a shape");
    let long_enough = smaller.iter().map(timed).find(|(_, first_s)| *first_s >= ENOUGH_S);
    let (product, first_s) = long_enough.unwrap_or_else(|| timed(last));
    (product.shape, product.fastest_s(first_s, repetitions))
}

/// A product to be timed.
struct Product {
    /// Rows, inputs and outputs.
    shape: [usize; 3],
    x: Tensor<2>,
    weight: Weight,
    device: Device,
}

impl Product {
    fn new(shape: [usize; 3], dtype: DType, device: &Device) -> Self {
        let [rows, inputs, outputs] = shape;
        let device = device.clone().without_autodiff();
        // As products read it, so that no conversion is timed.
        let type_of_x = type_of_activations(dtype, &device);
        Self {
            shape,
            x: random([rows, inputs], &device).cast(type_of_x),
            weight: Weight::from(bfloat16_values([outputs, inputs], &device).cast(dtype)),
            device,
        }
    }

    /// Seconds of a product, of so many between two synchronizations.
    fn time_s(&self, num_queued: usize) -> f64 {
        self.device.sync().expect("the device finishes its queue");
        let start = Instant::now();
        for _ in 0..num_queued {
            std::hint::black_box(linear_all(self.x.clone(), [&self.weight]));
        }
        self.device.sync().expect("the device finishes its queue");
        start.elapsed().as_secs_f64() / num_queued as f64
    }

    /// Seconds of a product in a first timing, after one that does not count.
    fn first_s(&self) -> f64 {
        let [fewest, _] = NUM_QUEUED;
        self.time_s(fewest);
        self.time_s(fewest)
    }

    /// Seconds of a product, the fastest of the first timing and of at least `repetitions` others, for at least [`MEASURING_S`].
    fn fastest_s(&self, first_s: f64, repetitions: usize) -> f64 {
        let num_queued = num_queued(first_s);
        let start = Instant::now();
        let is_enough = |num_timed: usize| num_timed >= repetitions && start.elapsed().as_secs_f64() >= MEASURING_S;
        (0..).take_while(|num_timed| !is_enough(*num_timed)).map(|_| self.time_s(num_queued)).fold(first_s, f64::min)
    }
}

fn random(shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), device)
}

/// Random float32 numbers whose values are bfloat16, as those of nearly every checkpoint: CPUs with AMX multiply such weights in half
/// as many products of parts as others, so they alone reach the peak. Multiples of 1/128 up to 1 have the 8 bits of bfloat16, on
/// devices without that type too.
fn bfloat16_values(shape: [usize; 2], device: &Device) -> Tensor<2> {
    random(shape, device).mul_scalar(128.0).round().div_scalar(128.0)
}

/// How many products that take this long are queued between two synchronizations.
fn num_queued(product_s: f64) -> usize {
    let [fewest, most] = NUM_QUEUED;
    ((QUEUE_S / product_s).ceil() as usize).clamp(fewest, most)
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use super::*;

    #[test]
    fn a_device_multiplies_and_reads_some_millions_a_second() {
        let peaks = Peaks::measure(Dtype::Bfloat16, &Device::flex());
        for found in [peaks.flops_per_s, peaks.of_half(Dtype::Bfloat16).expect("measured"), peaks.bytes_per_s] {
            assert!(found.is_finite() && found > 1e6, "{found}");
        }
    }

    #[test]
    fn weights_have_values_of_bfloat16() {
        let weights = bfloat16_values([64, 64], &Device::flex());
        let rounded = weights.clone().cast(DType::BF16).cast(DType::F32);
        let [values, rounded] =
            [weights, rounded].map(|weights| weights.into_data().try_to_vec::<f32>().expect("float32"));
        assert_eq!(values, rounded);
        assert!(values.iter().any(|value| *value < -0.5) && values.iter().any(|value| *value > 0.5));
    }

    #[test]
    fn short_products_are_queued_until_they_take_as_long_as_few_others() {
        assert_eq!([1.0, ENOUGH_S, QUEUE_S / 10.0, 1e-9, 0.0].map(num_queued), [4, 4, 10, 64, 64]);
    }

    #[test]
    fn products_of_each_type_have_their_peak() {
        for (dtype, other) in [(Dtype::Bfloat16, Dtype::Float16), (Dtype::Float16, Dtype::Bfloat16)] {
            let peaks = Peaks { flops_per_s: 1.0, half: Some((dtype, 2.0)), bytes_per_s: 3.0 };
            assert_eq!(peaks.of_products(dtype), (2.0, dtype));
            assert_eq!(peaks.of_products(other), (1.0, Dtype::Float32));
            assert_eq!(Peaks { half: None, ..peaks }.of_products(dtype), (1.0, Dtype::Float32));
        }
    }

    #[test]
    fn a_device_that_widens_float16_has_no_peak_of_it() {
        assert_eq!(Peaks::measure(Dtype::Float16, &Device::flex()).half, None);
    }

    #[test]
    fn the_larger_of_two_measurements_counts() {
        let half = |flops_per_s: f64| Some((Dtype::Bfloat16, flops_per_s));
        let early = Peaks { flops_per_s: 1.0, half: half(5.0), bytes_per_s: 3.0 };
        let late = Peaks { flops_per_s: 2.0, half: half(4.0), bytes_per_s: 1.0 };
        let both = Peaks { flops_per_s: 2.0, half: half(5.0), bytes_per_s: 3.0 };
        assert_eq!([early.max(late), late.max(early)], [both; 2]);
        let without = Peaks { half: None, ..early };
        assert_eq!(without.max(without).half, None);
    }
}
