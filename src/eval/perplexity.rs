//! Mean cross entropy over windows.

use burn::tensor::Device;

use super::batch;
use crate::data::Windows;
use crate::kernel::cross_entropy::cross_entropy;
use crate::model::CausalLm;

/// Mean `−ln p(target)` over all targets of all windows, in nats; its exponential is the perplexity.
///
/// # Panics
/// If `batch_size` is 0.
pub fn mean_loss_nats<M: CausalLm>(model: &M, windows: &Windows, batch_size: usize, device: &Device) -> f64 {
    let num_windows = windows.len();
    let mut sum = 0.0;
    for start in (0..num_windows).step_by(batch_size) {
        let (inputs, targets) = batch(windows, start..(start + batch_size).min(num_windows), device);
        let logits = model.forward(inputs).logits;
        let [rows, seq_length, vocab_size] = logits.dims();
        let num_tokens = rows * seq_length;
        let losses = cross_entropy(logits.reshape([num_tokens, vocab_size]), targets.reshape([num_tokens]));
        sum += losses.into_data().iter::<f32>().map(f64::from).sum::<f64>();
    }
    sum / (num_windows * windows.seq_length()) as f64
}
