//! States of a pass of the model.

use burn::tensor::{Device, Int, Tensor, TensorData};

/// Rows of states as one sequence: `[rows, hidden_size]` to `[1, selected, hidden_size]`.
pub(super) fn selected(hidden: &Tensor<2>, rows: impl Iterator<Item = usize>, device: &Device) -> Tensor<3> {
    let rows: Vec<i32> = rows.map(|row| row as i32).collect();
    let count = rows.len();
    let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [count]), device);
    hidden.clone().select(0, rows).unsqueeze()
}
