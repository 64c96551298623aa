//! The tokens that a model is trained to predict.

use std::borrow::Borrow;

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::data::Example;
use crate::kernel::attention::skips_masked_keys;
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
        /// The row of each.
        rows: Vec<usize>,
    },
}

impl Targets {
    /// Batches rows of packed documents: inputs that see their own document only, and its targets.
    ///
    /// # Panics
    /// If a document has another number of marks than of ids.
    pub fn packed<R: AsRef<[E]>, E: Borrow<Example>>(rows: &[R], device: &Device) -> (TokenBatch, Self) {
        let inputs: Vec<Vec<&[u32]>> =
            rows.iter().map(|row| row.as_ref().iter().map(|document| document.borrow().inputs()).collect()).collect();
        let len = |row: &Vec<&[u32]>| row.iter().map(|ids| ids.len()).sum::<usize>();
        let seq_length = inputs.iter().map(len).max().unwrap_or(0);
        let (mut positions, mut ids, mut target_rows) = (Vec::new(), Vec::new(), Vec::new());
        for (row, documents) in rows.iter().enumerate() {
            let mut position = row * seq_length;
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
        let targets = Self::Some { positions: tensor(positions), ids: tensor(ids), rows: target_rows };
        (TokenBatch::packed(&inputs, device), targets)
    }

    /// As [`Self::packed`], but rows of different lengths become one, so that nothing is computed for padding, where
    /// attention skips the keys of other documents.
    ///
    /// # Panics
    /// As [`Self::packed`].
    pub fn without_padding(rows: &[Vec<Example>], device: &Device) -> (TokenBatch, Self) {
        let len = |row: &Vec<Example>| row.iter().map(|document| document.inputs().len()).sum::<usize>();
        let is_full = rows.windows(2).all(|pair| len(&pair[0]) == len(&pair[1]));
        if is_full || !skips_masked_keys(device) {
            return Self::packed(rows, device);
        }
        Self::packed(&[rows.concat()], device)
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

    /// `−ln p` of each target: `[batch_size, seq_length]` of all, `[1, num_targets]` of some.
    ///
    /// # Panics
    /// If there is no target.
    pub fn losses<M: CausalLm>(&self, model: &M, hidden: Tensor<3>) -> Tensor<2> {
        let _span = span("loss");
        match self {
            Self::All(ids) => model.token_losses(hidden, ids.clone()),
            Self::Some { positions, ids, .. } => {
                let [batch_size, seq_length, hidden_size] = hidden.dims();
                let rows = hidden.reshape([batch_size * seq_length, hidden_size]).select(0, positions.clone());
                let len = ids.shape().num_elements();
                model.token_losses(rows.reshape([1, len, hidden_size]), ids.clone().reshape([1, len]))
            }
        }
    }
}
