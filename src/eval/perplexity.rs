//! Mean loss on windows.

use burn::tensor::Device;

use super::batch::{batch, batches};
use crate::data::Windows;
use crate::model::{CausalLm, loss};

/// Mean `−ln p(target)` of all targets of all windows, in nats; [`loss::perplexity`] is its exponential.
///
/// # Panics
/// If `batch_size` is 0.
pub fn mean_loss_nats<M: CausalLm>(model: &M, windows: &Windows, batch_size: usize, device: &Device) -> f64 {
    let mut sum = 0.0;
    for which in batches(windows, batch_size) {
        let [inputs, targets] = batch(windows, which, device);
        let num_tokens = targets.shape().num_elements();
        let mean = loss::mean(model.token_losses(model.hidden_states(inputs, None).last, targets));
        sum += f64::from(mean.into_scalar::<f32>()) * num_tokens as f64;
    }
    sum / (windows.len() * windows.seq_length()) as f64
}
