//! Where the tokens of a pass are in their sequences: how queries and keys are rotated, and which keys are visible.

use burn::tensor::Device;

use super::{Rotation, TokenBatch, token_batch::Document};
use crate::config::DecoderConfig;
use crate::kernel::attention::{Band, CausalMask, Seen};

/// Rotation and mask of a pass, shared by its layers.
#[derive(Debug, Clone)]
pub struct Positions {
    /// Of queries and new keys.
    pub rotation: Rotation,
    /// Of queries on all keys, those of the cache included.
    pub mask: CausalMask,
}

impl Positions {
    /// Of tokens that start sequences, or continue sequences of `past` cached tokens each.
    ///
    /// # Panics
    /// If there are no tokens, a position is not below `max_position_embeddings`, the cache has another batch size, documents
    /// are packed behind cached tokens, or continuations have a cache or reach beyond the sliding window.
    pub fn new(config: &DecoderConfig, tokens: &TokenBatch, past: Option<&[usize]>, device: &Device) -> Self {
        let [batch_size, seq_length] = tokens.ids.dims();
        assert!(batch_size * seq_length > 0, "a pass of no tokens");
        let has_cache = past.is_some();
        let past = past.map_or_else(|| vec![0; batch_size], <[_]>::to_vec);
        assert_eq!(past.len(), batch_size, "sequences of a cache and of a batch");
        let window = config.sliding_window;
        if tokens.is_full()
            && let Some(&first) = past.first()
            && past.iter().all(|len| *len == first)
        {
            let rotation = Rotation::new(config, &[(first..first + seq_length).collect()], device);
            return Self { rotation, mask: CausalMask::band(first, window) };
        }
        let documents = tokens.documents();
        let is_forked = documents.iter().flatten().any(|document| document.is_continuation);
        assert!(!(is_forked && has_cache), "continuations of a text with a cache");
        let (mut positions, mut rows) = (Vec::new(), Vec::new());
        for (past, documents) in past.into_iter().zip(documents.iter()) {
            assert!(past == 0 || documents.len() < 2, "documents cannot be packed behind cached tokens");
            let (mut row, seen): (Vec<usize>, Vec<Seen>) = row(past, documents, window).into_iter().unzip();
            row.resize(seq_length, 0);
            positions.push(row);
            rows.push(seen);
        }
        let mask = if is_forked {
            let is_in_window = |position: &usize| window.is_none_or(|window| *position < window);
            assert!(positions.iter().flatten().all(is_in_window), "continuations beyond a sliding window");
            CausalMask::forked(rows)
        } else {
            let keys = |row: Vec<Seen>| row.into_iter().map(|seen| seen.keys).collect();
            CausalMask::ragged(&rows.into_iter().map(keys).collect::<Vec<_>>(), device)
        };
        Self { rotation: Rotation::new(config, &positions, device), mask }
    }
}

/// The position of each token of a row, and the keys that it sees.
fn row(past: usize, documents: &[Document], window: Option<usize>) -> Vec<(usize, Seen)> {
    let mut tokens = Vec::new();
    // The keys of the nearest earlier document that is not itself a continuation.
    let mut prefix = 0..0;
    for document in documents {
        let start = tokens.len();
        if document.is_continuation {
            let token = |token| {
                let seen = Seen { keys: prefix.start..start + token + 1, hidden: prefix.end..start };
                (prefix.len() + token, seen)
            };
            tokens.extend((0..document.len).map(token));
        } else {
            let band = Band { past, window };
            prefix = start..start + document.len;
            let token = |token| {
                let keys = band.keys(token);
                (past + token, Seen { keys: start + keys.start..start + keys.end, hidden: 0..0 })
            };
            tokens.extend((0..document.len).map(token));
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    fn document(len: usize, is_continuation: bool) -> Document {
        Document { len, is_continuation }
    }

    fn keys(past: usize, lens: &[usize], window: Option<usize>) -> Vec<Range<usize>> {
        let documents: Vec<_> = lens.iter().map(|len| document(*len, false)).collect();
        row(past, &documents, window).into_iter().map(|(_, seen)| seen.keys).collect()
    }

    #[test]
    fn a_document_sees_neither_those_before_it_nor_beyond_its_window() {
        assert_eq!(keys(0, &[2, 3], None), [0..1, 0..2, 2..3, 2..4, 2..5]);
        assert_eq!(keys(0, &[2, 3], Some(2)), [0..1, 0..2, 2..3, 2..4, 3..5]);
        assert_eq!(keys(4, &[2], Some(3)), [2..5, 3..6]);
    }

    #[test]
    fn continuations_see_the_text_that_they_continue_and_not_each_other() {
        let documents = [(1, false), (2, false), (1, true), (2, true), (1, false)];
        let found = row(0, &documents.map(|(len, is_continuation)| document(len, is_continuation)), None);
        let token = |position, keys, hidden| (position, Seen { keys, hidden });
        let expected = [
            token(0, 0..1, 0..0),
            token(0, 1..2, 0..0),
            token(1, 1..3, 0..0),
            token(2, 1..4, 3..3),
            token(2, 1..5, 3..4),
            token(3, 1..6, 3..4),
            token(0, 6..7, 0..0),
        ];
        assert_eq!(found, expected);
    }
}
