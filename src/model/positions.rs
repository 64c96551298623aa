//! Where the tokens of a pass are in their sequences: how queries and keys are rotated, and which keys are visible.

use std::ops::Range;

use burn::tensor::Device;

use super::{Rotation, TokenBatch};
use crate::config::DecoderConfig;
use crate::kernel::attention::{Band, CausalMask};

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
    /// If there are no tokens, a position is not below `max_position_embeddings`, the cache has another batch size, or
    /// documents are packed behind cached tokens.
    pub fn new(config: &DecoderConfig, tokens: &TokenBatch, past: Option<&[usize]>, device: &Device) -> Self {
        let [batch_size, seq_length] = tokens.ids.dims();
        assert!(batch_size * seq_length > 0, "a pass of no tokens");
        let past = past.map_or_else(|| vec![0; batch_size], <[_]>::to_vec);
        assert_eq!(past.len(), batch_size, "sequences of a cache and of a batch");
        let window = config.sliding_window;
        if tokens.documents().is_none()
            && let Some(&first) = past.first()
            && past.iter().all(|len| *len == first)
        {
            let rotation = Rotation::new(config, &[(first..first + seq_length).collect()], device);
            return Self { rotation, mask: CausalMask::band(first, window) };
        }
        let whole = || tokens.lens().into_iter().map(|len| vec![len]).collect();
        let documents = tokens.documents().map_or_else(whole, <[_]>::to_vec);
        let (mut positions, mut keys) = (Vec::new(), Vec::new());
        for (past, lens) in past.into_iter().zip(documents) {
            assert!(past == 0 || lens.len() < 2, "documents cannot be packed behind cached tokens");
            let mut row: Vec<usize> = lens.iter().flat_map(|len| past..past + len).collect();
            keys.push(row_keys(past, &lens, window));
            row.resize(seq_length, 0);
            positions.push(row);
        }
        let rotation = Rotation::new(config, &positions, device);
        Self { rotation, mask: CausalMask::ragged(&keys, device) }
    }
}

/// The keys that each token of a row sees.
fn row_keys(past: usize, document_lens: &[usize], window: Option<usize>) -> Vec<Range<usize>> {
    let mut keys = Vec::new();
    let mut start = 0;
    for len in document_lens {
        let band = Band { past, window };
        keys.extend((0..*len).map(|token| band.keys(token)).map(|keys| start + keys.start..start + keys.end));
        start += len;
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_sees_neither_those_before_it_nor_beyond_its_window() {
        assert_eq!(row_keys(0, &[2, 3], None), [0..1, 0..2, 2..3, 2..4, 2..5]);
        assert_eq!(row_keys(0, &[2, 3], Some(2)), [0..1, 0..2, 2..3, 2..4, 3..5]);
        assert_eq!(row_keys(4, &[2], Some(3)), [2..5, 3..6]);
    }
}
