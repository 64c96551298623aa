//! The tokens of a pass.

use std::borrow::Cow;
use std::sync::Arc;

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use crate::weights::split_mix;

/// Token ids of a pass, a row per sequence. A plain tensor is a batch of sequences of one length.
#[derive(Debug, Clone)]
pub struct TokenBatch {
    /// `[batch_size, seq_length]`; 0 behind the end of a row.
    pub ids: Tensor<2, Int>,
    /// The documents of each row, if some row is padded or has several.
    documents: Option<Vec<Vec<Document>>>,
    /// A random number of each of the `batch_size · seq_length` positions, if inputs of adapters are dropped.
    dropout: Option<Arc<[u32]>>,
}

/// Consecutive tokens of a row, which do not see the documents before them, except the one that they continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Document {
    pub len: usize,
    /// Whether it continues the nearest earlier document that is not itself a continuation.
    pub is_continuation: bool,
}

/// A text with several continuations.
#[derive(Debug, Clone)]
pub struct Fork<'a> {
    /// The shared prefix.
    pub prefix: &'a [u32],
    /// The continuations. They do not see each other.
    pub continuations: Vec<&'a [u32]>,
}

impl<'a> Fork<'a> {
    /// Its texts, each with whether it continues another.
    fn documents(&self) -> impl Iterator<Item = (&'a [u32], bool)> {
        let continues = !self.prefix.is_empty();
        std::iter::once((self.prefix, false)).chain(self.continuations.iter().map(move |ids| (*ids, continues)))
    }
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
        let rows = rows.iter().map(|row| row.as_ref().iter().map(|text| (text.as_ref(), false)).collect());
        Self::of_documents(&rows.collect::<Vec<_>>(), device)
    }

    /// Prefixes and continuations in one row without padding, for evaluation. A continuation sees its prefix and itself, and its
    /// positions follow those of the prefix. There is no cache, and no text is longer than the sliding window. Values that are not
    /// finite may reach other texts of the row.
    pub fn forked(forks: &[Fork<'_>], device: &Device) -> Self {
        Self::of_documents(&[forks.iter().flat_map(Fork::documents).collect()], device)
    }

    /// Rows of texts, each with whether it continues another.
    fn of_documents(rows: &[Vec<(&[u32], bool)>], device: &Device) -> Self {
        let document =
            |(ids, is_continuation): &(&[u32], bool)| Document { len: ids.len(), is_continuation: *is_continuation };
        let documents: Vec<Vec<Document>> = rows.iter().map(|row| row.iter().map(document).collect()).collect();
        let seq_length = documents.iter().map(|row| num_tokens(row)).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(rows.len() * seq_length);
        for (row, texts) in rows.iter().enumerate() {
            ids.extend(texts.iter().flat_map(|(ids, _)| *ids).map(|id| *id as i32));
            ids.resize((row + 1) * seq_length, 0);
        }
        let is_full = documents.iter().all(|row| row.len() == 1 && row[0].len == seq_length);
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
        let documents = self.documents();
        let num_documents: usize = documents.iter().map(Vec::len).sum();
        assert_eq!(num_documents, streams.len(), "documents and their streams");
        let (mut numbers, mut streams) = (Vec::with_capacity(batch_size * seq_length), streams.iter());
        for (row, documents) in documents.iter().enumerate() {
            for (document, stream) in documents.iter().zip(&mut streams) {
                // The upper half of SplitMix64 (Steele et al., 2014).
                numbers
                    .extend((0..document.len as u64).map(|place| (split_mix(stream.wrapping_add(place)) >> 32) as u32));
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

    /// Whether every row is one document without padding.
    pub(super) fn is_full(&self) -> bool {
        self.documents.is_none()
    }

    /// The documents of each row.
    pub(super) fn documents(&self) -> Cow<'_, [Vec<Document>]> {
        let [batch_size, seq_length] = self.ids.dims();
        let whole = || vec![vec![Document { len: seq_length, is_continuation: false }]; batch_size].into();
        self.documents.as_deref().map_or_else(whole, Cow::Borrowed)
    }

    /// Tokens of each row, without padding.
    pub(super) fn lens(&self) -> Vec<usize> {
        let [batch_size, seq_length] = self.ids.dims();
        match &self.documents {
            None => vec![seq_length; batch_size],
            Some(documents) => documents.iter().map(|row| num_tokens(row)).collect(),
        }
    }
}

fn num_tokens(row: &[Document]) -> usize {
    row.iter().map(|document| document.len).sum()
}
