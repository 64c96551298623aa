//! Reductions of the per-token losses of [`CausalLm::token_losses`](super::CausalLm::token_losses).
//!
//! Sums are accumulated in float64 where the device has it, and rounded to float32 once.

use burn::tensor::{DType, Tensor};

/// `Σ losses / num_tokens`, `[1]`, of losses `[batch_size, seq_length]`.
pub fn mean(losses: Tensor<2>) -> Tensor<1> {
    widened(losses).mean().cast(DType::F32)
}

/// `exp` of a mean loss in nats.
pub fn perplexity(mean_loss_nats: f64) -> f64 {
    mean_loss_nats.exp()
}

fn widened(losses: Tensor<2>) -> Tensor<2> {
    if losses.device().supports_dtype(DType::F64) { losses.cast(DType::F64) } else { losses }
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

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
}
