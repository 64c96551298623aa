//! Mean cross entropy over windows.

use burn::tensor::Device;

use super::batch;
use crate::data::Windows;
use crate::model::{CausalLm, loss::mean};

/// Mean `−ln p(target)` over all targets of all windows, in nats; its exponential is the perplexity.
///
/// # Panics
/// If `batch_size` is 0.
pub fn mean_loss_nats<M: CausalLm>(model: &M, windows: &Windows, batch_size: usize, device: &Device) -> f64 {
    let num_windows = windows.len();
    let mut sum = 0.0;
    for start in (0..num_windows).step_by(batch_size) {
        let (inputs, targets) = batch(windows, start..(start + batch_size).min(num_windows), device);
        let num_tokens = targets.shape().num_elements();
        let loss = mean(model.token_losses(model.hidden_states(inputs, None).last, targets));
        sum += f64::from(loss.into_scalar::<f32>()) * num_tokens as f64;
    }
    sum / (num_windows * windows.seq_length()) as f64
}
