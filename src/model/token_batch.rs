//! The tokens of a pass.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

/// Token ids of a pass, a row per sequence. A plain tensor is a batch of sequences of one length.
#[derive(Debug, Clone)]
pub struct TokenBatch {
    /// `[batch_size, seq_length]`; 0 behind the end of a row.
    pub ids: Tensor<2, Int>,
    /// Lengths of the documents of each row, if some row is padded or has several.
    documents: Option<Vec<Vec<usize>>>,
}

impl From<Tensor<2, Int>> for TokenBatch {
    fn from(ids: Tensor<2, Int>) -> Self {
        Self { ids, documents: None }
    }
}

impl TokenBatch {
    /// Sequences of any lengths, padded on the right: for evaluation and for continuous batching. A sequence may have no
    /// tokens in this pass. Padding does not influence the tokens before it.
    pub fn padded<T: AsRef<[u32]>>(sequences: &[T], device: &Device) -> Self {
        let rows: Vec<&[T]> = sequences.iter().map(std::slice::from_ref).collect();
        Self::packed(&rows, device)
    }

    /// Rows of consecutive documents, padded on the right: for training. A document does not see the ones before it, and its
    /// positions start at 0.
    pub fn packed<R: AsRef<[T]>, T: AsRef<[u32]>>(rows: &[R], device: &Device) -> Self {
        let documents = rows.iter().map(|row| row.as_ref().iter().map(|text| text.as_ref().len()).collect());
        let documents: Vec<Vec<usize>> = documents.collect();
        let seq_length = documents.iter().map(|lens| lens.iter().sum()).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(rows.len() * seq_length);
        for (row, texts) in rows.iter().enumerate() {
            ids.extend(texts.as_ref().iter().flat_map(|text| text.as_ref()).map(|id| *id as i32));
            ids.resize((row + 1) * seq_length, 0);
        }
        let is_full = documents.iter().all(|lens| *lens == [seq_length]);
        let ids = Tensor::from_data(TensorData::new(ids, [rows.len(), seq_length]), device);
        Self { ids, documents: (!is_full).then_some(documents) }
    }

    /// Which of the `batch_size · seq_length` positions hold a token; `None` if all do.
    pub fn token_mask(&self) -> Option<Tensor<1, Bool>> {
        let [batch_size, seq_length] = self.ids.dims();
        let lens = self.lens();
        if lens.iter().all(|len| *len == seq_length) {
            return None;
        }
        let mask: Vec<bool> = lens.into_iter().flat_map(|len| (0..seq_length).map(move |at| at < len)).collect();
        Some(Tensor::from_data(TensorData::new(mask, [batch_size * seq_length]), &self.ids.device()))
    }

    /// Lengths of the documents of each row; `None` if every row is one document without padding.
    pub(super) fn documents(&self) -> Option<&[Vec<usize>]> {
        self.documents.as_deref()
    }

    /// Tokens of each row, without padding.
    pub(super) fn lens(&self) -> Vec<usize> {
        let [batch_size, seq_length] = self.ids.dims();
        match &self.documents {
            None => vec![seq_length; batch_size],
            Some(documents) => documents.iter().map(|lens| lens.iter().sum()).collect(),
        }
    }
}
