//! Reductions of the per-token losses of [`CausalLm::token_losses`](super::CausalLm::token_losses).
//!
//! Sums are accumulated in float64 where the device has it, and rounded to float32 once.

use burn::tensor::{Bool, DType, Tensor};

/// `Σ losses / num_tokens`, `[1]`, of losses `[batch_size, seq_length]`.
pub fn mean(losses: Tensor<2>) -> Tensor<1> {
    widened(losses).mean().cast(DType::F32)
}

/// `Σ mask · losses / Σ mask`, `[1]`, of losses `[batch_size, seq_length]`. A token outside of the mask has no gradient,
/// whatever its loss. NaN if the mask is empty.
///
/// # Panics
/// If `mask` is not `[batch_size, seq_length]`.
pub fn masked_mean(losses: Tensor<2>, mask: Tensor<2, Bool>) -> Tensor<1> {
    let num_tokens = mask.clone().int().sum().float();
    let sum = widened(masked(losses, mask)).sum();
    let num_tokens = num_tokens.cast(sum.dtype());
    (sum / num_tokens).cast(DType::F32)
}

/// `Σ mask · losses` of each sequence, `[batch_size]`, of losses `[batch_size, seq_length]`: minus the log-likelihood of
/// the masked tokens.
///
/// # Panics
/// If `mask` is not `[batch_size, seq_length]`.
pub fn sum_per_sequence(losses: Tensor<2>, mask: Tensor<2, Bool>) -> Tensor<1> {
    let [batch_size, _] = losses.dims();
    widened(masked(losses, mask)).sum_dim(1).reshape([batch_size]).cast(DType::F32)
}

/// `exp` of a mean loss in nats.
pub fn perplexity(mean_loss_nats: f64) -> f64 {
    mean_loss_nats.exp()
}

fn masked(losses: Tensor<2>, mask: Tensor<2, Bool>) -> Tensor<2> {
    assert_eq!(losses.dims(), mask.dims(), "losses and mask");
    losses.mask_fill(mask.bool_not(), 0.0)
}

fn widened(losses: Tensor<2>) -> Tensor<2> {
    if losses.device().supports_dtype(DType::F64) { losses.cast(DType::F64) } else { losses }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    fn losses(device: &Device) -> Tensor<2> {
        Tensor::from_data([[1.0f32, 2.0, f32::NAN], [4.0, 0.5, 8.0]], device).require_grad()
    }

    fn mask(device: &Device) -> Tensor<2, Bool> {
        Tensor::from_data(TensorData::from([[true, true, false], [false, true, true]]), device)
    }

    #[test]
    fn a_masked_token_enters_neither_the_mean_nor_the_gradient() {
        let device = Device::flex().autodiff();
        let losses = losses(&device);
        let mean = masked_mean(losses.clone(), mask(&device));
        assert_eq!(mean.clone().into_scalar::<f32>(), 11.5 / 4.0);
        let gradient = losses.grad(&mean.backward()).expect("tracked").into_data();
        assert_eq!(gradient, TensorData::from([[0.25f32, 0.25, 0.0], [0.0, 0.25, 0.25]]));
    }

    #[test]
    fn sums_are_per_sequence() {
        let device = Device::flex().autodiff();
        let losses = losses(&device);
        let sums = sum_per_sequence(losses.clone(), mask(&device));
        assert_eq!(sums.clone().into_data(), TensorData::from([3.0f32, 8.5]));
        let weighted = sums * Tensor::from_data([1.0f32, -2.0], &device);
        let gradient = losses.grad(&weighted.sum().backward()).expect("tracked").into_data();
        assert_eq!(gradient, TensorData::from([[1.0f32, 1.0, 0.0], [0.0, -2.0, -2.0]]));
    }

    #[test]
    fn a_mean_is_summed_in_float64() {
        let device = Device::flex();
        let mut values = vec![1e-4f32; 4096];
        values[0] = 4096.0;
        let expected = (values.iter().map(|x| f64::from(*x)).sum::<f64>() / 4096.0) as f32;
        let losses = Tensor::from_data(TensorData::new(values, [2, 2048]), &device);
        assert_eq!(mean(losses).into_scalar::<f32>(), expected);
        assert_eq!(perplexity(64f64.ln()).round(), 64.0);
    }

    #[test]
    #[should_panic(expected = "losses and mask")]
    fn a_mask_of_another_shape_is_refused() {
        let device = Device::flex();
        masked_mean(Tensor::ones([2, 3], &device), Tensor::<2, Bool>::from_data([[true], [false]], &device));
    }
}
