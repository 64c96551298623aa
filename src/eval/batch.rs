//! Windows as tensors.

use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::data::Windows;

/// Inputs and targets of some windows, each `[num_windows, seq_length]`.
pub(super) fn batch(windows: &Windows, which: Range<usize>, device: &Device) -> [Tensor<2, Int>; 2] {
    let shape = [which.len(), windows.seq_length()];
    [Windows::inputs, Windows::targets].map(|row| {
        let ids = which.clone().flat_map(|window| row(windows, window)).map(|id| *id as i32).collect();
        Tensor::from_data(TensorData::new(ids, shape), device)
    })
}

/// The windows of each batch.
pub(super) fn batches(windows: &Windows, batch_size: usize) -> impl Iterator<Item = Range<usize>> {
    let num_windows = windows.len();
    (0..num_windows).step_by(batch_size).map(move |start| start..(start + batch_size).min(num_windows))
}
