//! `y = x·Wᵀ` with a weight that stays in the blocks of integers that a GGUF file has it in.

mod block;
#[cfg(test)]
mod fixture;
mod format;
mod matrix;
#[cfg(feature = "flex")]
mod product;

pub use format::BlockFormat;
pub use matrix::QuantizedMatrix;
#[cfg(feature = "flex")]
pub(in crate::kernel) use product::{QuantizedRows, multiply};

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};

use super::linear::linear_reference;
use super::projections::{Weight, projections};

/// `y = x·Wᵀ`.
///
/// Where there is a hand-written body, each 32 numbers of a row of `x` are rounded to `d·q`, `q` in `−127..=127`: the
/// products are exact integers, and a result is off by at most `Σ_blocks d/2 · Σ|w|`. Gradients reach `x`, through the
/// reference; the weight has none.
///
/// # Shapes
/// - `x`: `[.., in]`, float32
/// - `weight`: `[out, in]`
/// - result: `[.., out]`
///
/// # Panics
/// If the last axis of `x` is not the last of `weight`.
pub fn quantized_linear<const D: usize>(x: Tensor<D>, weight: &Arc<QuantizedMatrix>) -> Tensor<D> {
    let [y] = projections(x, None, [Weight::Quantized(weight.clone())]);
    y
}

/// The same with the numbers that the blocks stand for, in float32.
///
/// # Panics
/// As [`quantized_linear`].
pub fn quantized_linear_reference<const D: usize>(x: Tensor<D>, weight: &QuantizedMatrix) -> Tensor<D> {
    let weight = dequantized(weight, &x.device());
    linear_reference(x, weight)
}

/// Whether weights on this device are multiplied in their blocks. Elsewhere they are widened for every product.
pub fn keeps_blocks(device: &Device) -> bool {
    super::has_kernel(device) && !device.is_autodiff()
}

/// The numbers of a matrix as a tensor.
pub(super) fn dequantized(matrix: &QuantizedMatrix, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(matrix.dequantize(), matrix.dims()), device)
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::tensor::Distribution;

    use super::fixture::blocks;
    use super::*;

    /// How far `x_row · w_row` may be off where each 32 numbers of `x` are off by half a step of `max |x| / 127`.
    fn bound(x: &[f32], w: &[f32]) -> f32 {
        let step = |x: &[f32]| x.iter().fold(0.0f32, |largest, x| largest.max(x.abs())) / 127.0;
        let blocks = x.chunks_exact(32).zip(w.chunks_exact(32));
        blocks.map(|(x, w)| 0.5 * step(x) * w.iter().map(|w| w.abs()).sum::<f32>()).sum()
    }

    #[test]
    fn the_kernel_is_within_the_rounding_of_activations_of_the_reference() {
        let device = Device::flex();
        for format in BlockFormat::ALL {
            for (shape, out) in [([1, 1, 256], 3), ([2, 3, 512], 40), ([1, 50, 256], 17), ([1, 0, 256], 5)] {
                let bytes = blocks(format, out * shape[2], 8);
                let weight = Arc::new(QuantizedMatrix::from_blocks(format, [out, shape[2]], &bytes));
                let x = Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), &device);
                let found = quantized_linear(x.clone(), &weight).into_data();
                if shape[1] == 0 {
                    assert_eq!(found.shape()[..], [1, 0, out]);
                    continue;
                }
                let expected = quantized_linear_reference(x.clone(), &weight).into_data();
                assert_eq!(found.shape(), expected.shape());
                let (x, w) = (x.into_data().try_into_vec::<f32>().unwrap(), weight.dequantize());
                for (i, (found, expected)) in found.iter::<f32>().zip(expected.iter::<f32>()).enumerate() {
                    let row = |of: &[f32], index: usize| of[index * shape[2]..(index + 1) * shape[2]].to_vec();
                    let (off, most) = ((found - expected).abs(), bound(&row(&x, i / out), &row(&w, i % out)));
                    assert!(off <= 1.001 * most + 1e-4, "{format:?} {shape:?}: off by {off}, at most {most}");
                }
            }
        }
    }

    #[test]
    fn gradients_reach_the_activations() {
        let device = Device::flex().autodiff();
        let bytes = blocks(BlockFormat::Q4_K, 6 * 256, 1);
        let weight = Arc::new(QuantizedMatrix::from_blocks(BlockFormat::Q4_K, [6, 256], &bytes));
        let x = Tensor::<2>::random([3, 256], Distribution::Default, &device).require_grad();
        let grads = quantized_linear(x.clone(), &weight).sum().backward();
        let found = x.grad(&grads).unwrap().into_data().try_into_vec::<f32>().unwrap();
        let values = weight.dequantize();
        for (i, found) in found.iter().enumerate() {
            let expected: f32 = (0..6).map(|row| values[row * 256 + i % 256]).sum();
            assert!((found - expected).abs() < 1e-4, "{found} {expected}");
        }
    }

    #[test]
    fn a_matrix_takes_the_memory_of_its_blocks() {
        for format in BlockFormat::ALL {
            let file = blocks(format, 32 * 512, 1);
            let matrix = QuantizedMatrix::from_blocks(format, [32, 512], &file);
            let ratio = matrix.size_bytes() as f64 / file.len() as f64;
            assert!((1.0..=1.04).contains(&ratio), "{format:?}: {ratio}");
        }
    }

    #[test]
    #[should_panic(expected = "linear: last axis of x [2, 32] and in_features")]
    fn the_inner_axes_must_agree() {
        let weight = Arc::new(QuantizedMatrix::quantize(BlockFormat::Q8_0, [3, 64], &[0.5; 192]));
        quantized_linear(Tensor::<2>::zeros([2, 32], &Device::flex()), &weight);
    }
}
