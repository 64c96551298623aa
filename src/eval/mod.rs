//! What a model knows: its loss on text that it was not trained on, where its experts go, and how far it
//! is from the model that it was grown from.

mod expert_load;
mod perplexity;
mod preservation;

pub use expert_load::expert_load;
pub use perplexity::mean_loss_nats;
pub use preservation::{LogitDivergence, departure, logits};

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::data::Windows;

/// Inputs and targets of some windows, each `[windows, seq_length]`.
fn batch(windows: &Windows, which: std::ops::Range<usize>, device: &Device) -> (Tensor<2, Int>, Tensor<2, Int>) {
    let shape = [which.len(), windows.seq_length()];
    let gather = |row: &dyn Fn(usize) -> Vec<u32>| {
        let ids: Vec<i32> = which.clone().flat_map(row).map(|id| id as i32).collect();
        Tensor::from_data(TensorData::new(ids, shape), device)
    };
    (gather(&|w| windows.inputs(w).to_vec()), gather(&|w| windows.targets(w).to_vec()))
}
