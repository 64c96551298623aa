//! The tokens of a pass.

use std::sync::Arc;

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use crate::weights::split_mix;

/// Token ids of a pass, a row per sequence. A plain tensor is a batch of sequences of one length.
#[derive(Debug, Clone)]
pub struct TokenBatch {
    /// `[batch_size, seq_length]`; 0 behind the end of a row.
    pub ids: Tensor<2, Int>,
    /// Lengths of the documents of each row, if some row is padded or has several.
    documents: Option<Vec<Vec<usize>>>,
    /// A random number of each of the `batch_size · seq_length` positions, if inputs of adapters are dropped.
    dropout: Option<Arc<[u32]>>,
}

impl From<Tensor<2, Int>> for TokenBatch {
    fn from(ids: Tensor<2, Int>) -> Self {
        Self { ids, documents: None, dropout: None }
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
        Self { ids, documents: (!is_full).then_some(documents), dropout: None }
    }

    /// For a pass in training: adapters drop elements of their inputs, if they have a probability to. Each document has a random
    /// stream, of which a token takes the number of its place, so that its masks do not depend on how documents are batched.
    ///
    /// # Panics
    /// If there is not one stream for each document.
    #[must_use]
    pub fn with_dropout(self, streams: &[u64]) -> Self {
        let [batch_size, seq_length] = self.ids.dims();
        let whole = || vec![vec![seq_length]; batch_size];
        let documents = self.documents.clone().unwrap_or_else(whole);
        let num_documents: usize = documents.iter().map(Vec::len).sum();
        assert_eq!(num_documents, streams.len(), "documents and their streams");
        let (mut numbers, mut streams) = (Vec::with_capacity(batch_size * seq_length), streams.iter());
        for (row, lens) in documents.iter().enumerate() {
            for (len, stream) in lens.iter().zip(&mut streams) {
                // The upper half of SplitMix64 (Steele et al., 2014).
                numbers.extend((0..*len as u64).map(|place| (split_mix(stream.wrapping_add(place)) >> 32) as u32));
            }
            numbers.resize((row + 1) * seq_length, 0);
        }
        Self { dropout: Some(numbers.into()), ..self }
    }

    /// The random numbers of the positions, if inputs of adapters are dropped.
    pub(super) fn dropout(&self) -> Option<&Arc<[u32]>> {
        self.dropout.as_ref()
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
