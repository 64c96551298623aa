//! The tokens that a model is trained to predict.

use std::borrow::Borrow;

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::data::Example;
use crate::kernel::attention::skips_masked_keys;
use crate::kernel::linear_cross_entropy::Upstream;
use crate::model::{CausalLm, TokenBatch};
use crate::trace::span;

/// The tokens of a batch that are targets of the loss.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "one per pass")]
pub enum Targets {
    /// The token after each input, `[batch_size, seq_length]`.
    All(Tensor<2, Int>),
    /// The tokens after some of the inputs. Hidden states of other inputs never reach the head.
    Some {
        /// Row-major indices of those inputs, `[num_targets]`.
        positions: Tensor<1, Int>,
        /// The token after each, `[num_targets]`.
        ids: Tensor<1, Int>,
        /// The row of each, as the rows were given.
        rows: Vec<usize>,
    },
}

impl Targets {
    /// Batches rows of packed documents: inputs that see their own document only, and its targets. Shorter rows are padded.
    ///
    /// # Panics
    /// If a document has another number of marks than of ids.
    pub fn packed<R: AsRef<[E]>, E: Borrow<Example>>(rows: &[R], device: &Device) -> (TokenBatch, Self) {
        let inputs = inputs_of(rows);
        let seq_length = inputs.iter().map(|row| num_inputs(row)).max().unwrap_or(0);
        let starts = (0..rows.len()).map(|row| row * seq_length);
        (TokenBatch::packed(&inputs, device), Self::of_rows(rows, starts, device))
    }

    /// Whether rows of different lengths stay rows, padded to the longest, on this device.
    pub fn are_padded(device: &Device) -> bool {
        !skips_masked_keys(device)
    }

    /// As [`Self::packed`], but rows of different lengths become one, so that nothing is computed for padding, where
    /// attention skips the keys of other documents.
    ///
    /// # Panics
    /// As [`Self::packed`].
    pub fn without_padding<R: AsRef<[E]>, E: Borrow<Example>>(rows: &[R], device: &Device) -> (TokenBatch, Self) {
        let inputs = inputs_of(rows);
        let is_full = inputs.windows(2).all(|pair| num_inputs(&pair[0]) == num_inputs(&pair[1]));
        if is_full || Self::are_padded(device) {
            return Self::packed(rows, device);
        }
        let starts = inputs.iter().scan(0, |end, row| {
            let start = *end;
            *end += num_inputs(row);
            Some(start)
        });
        let targets = Self::of_rows(rows, starts, device);
        (TokenBatch::packed(&[inputs.concat()], device), targets)
    }

    /// The targets of rows whose inputs start at `starts` of a batch.
    fn of_rows<R: AsRef<[E]>, E: Borrow<Example>>(
        rows: &[R],
        starts: impl Iterator<Item = usize>,
        device: &Device,
    ) -> Self {
        let (mut positions, mut ids, mut target_rows) = (Vec::new(), Vec::new(), Vec::new());
        for (row, (documents, mut position)) in rows.iter().zip(starts).enumerate() {
            for document in documents.as_ref().iter().map(Borrow::borrow) {
                assert_eq!(document.ids.len(), document.trained.len(), "ids and marks of a document");
                let targets = document.ids.iter().zip(&document.trained).skip(1);
                for ((id, _), at) in targets.zip(position..).filter(|((_, trained), _)| **trained) {
                    positions.push(at as i32);
                    ids.push(*id as i32);
                    target_rows.push(row);
                }
                position += document.inputs().len();
            }
        }
        let tensor = |numbers: Vec<i32>| {
            let len = numbers.len();
            Tensor::from_data(TensorData::new(numbers, [len]), device)
        };
        Self::Some { positions: tensor(positions), ids: tensor(ids), rows: target_rows }
    }

    /// Number of targets.
    pub fn len(&self) -> usize {
        match self {
            Self::All(ids) => ids.shape().num_elements(),
            Self::Some { ids, .. } => ids.shape().num_elements(),
        }
    }

    /// Whether there is no target.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `−ln p` of each target: `[batch_size, seq_length]` of all, `[1, num_targets]` of some. `upstream` is the gradient that
    /// the losses will get.
    ///
    /// # Panics
    /// If there is no target.
    pub fn losses<M: CausalLm>(&self, model: &M, hidden: Tensor<3>, upstream: Upstream) -> Tensor<2> {
        let _span = span("loss");
        match self {
            Self::All(ids) => model.token_losses_for(hidden, ids.clone(), upstream),
            Self::Some { positions, ids, .. } => {
                let [batch_size, seq_length, hidden_size] = hidden.dims();
                let rows = hidden.reshape([batch_size * seq_length, hidden_size]).select(0, positions.clone());
                let len = ids.shape().num_elements();
                let (rows, ids) = (rows.reshape([1, len, hidden_size]), ids.clone().reshape([1, len]));
                model.token_losses_for(rows, ids, upstream)
            }
        }
    }
}

/// The inputs of each document of each row.
fn inputs_of<'a, R: AsRef<[E]>, E: Borrow<Example> + 'a>(rows: &'a [R]) -> Vec<Vec<&'a [u32]>> {
    rows.iter().map(|row| row.as_ref().iter().map(|document| document.borrow().inputs()).collect()).collect()
}

fn num_inputs(row: &[&[u32]]) -> usize {
    row.iter().map(|ids| ids.len()).sum()
}
