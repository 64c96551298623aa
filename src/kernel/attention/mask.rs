//! Which keys each query sees.

use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};

/// Which keys each query sees: always a contiguous range that ends with its own, the last one.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "one per pass")]
pub enum CausalMask {
    /// The queries of every sequence are at the same positions.
    Band(Band),
    /// Sequences differ in how many keys they have, or a sequence is several documents.
    Ragged(Ragged),
}

/// Query `i` is key `past + i` and sees all keys up to itself, or the last `window` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Band {
    /// Keys before the first query.
    pub past: usize,
    /// Keys that a query sees at most, itself included.
    pub window: Option<usize>,
}

/// A range of keys for each query, on the device.
#[derive(Debug, Clone)]
pub struct Ragged {
    /// `[batch_size, num_queries, 2]`: the first key that a query sees, and one past the last, which is its own; twice 0 of
    /// padding, which sees nothing and has zeros for a result.
    pub(super) bounds: Tensor<3, Int>,
    /// One past the last key that is seen.
    pub(super) num_keys: usize,
    /// Pairs of a query and a key that it sees.
    pub(super) num_pairs: usize,
    /// Keys that some query sees, of all sequences.
    pub(super) num_visible: usize,
    /// The same of the sequence with the most.
    #[cfg_attr(not(feature = "flex"), expect(dead_code, reason = "only kernels read it"))]
    pub(super) max_visible: usize,
}

impl CausalMask {
    /// The same positions in every sequence: see [`Band`].
    pub fn band(past: usize, window: Option<usize>) -> Self {
        Self::Band(Band { past, window })
    }

    /// The keys that each query of each sequence sees. Shorter sequences are padded on the right.
    ///
    /// # Panics
    /// If there is no query at all, a query does not see itself, or the queries of a sequence are not consecutive keys.
    pub fn ragged(sequences: &[Vec<Range<usize>>], device: &Device) -> Self {
        let num_queries = sequences.iter().map(Vec::len).max().unwrap_or(0);
        assert!(num_queries > 0, "a mask of no queries");
        let mut bounds = Vec::with_capacity(2 * sequences.len() * num_queries);
        for queries in sequences {
            assert!(queries.iter().all(|keys| keys.start < keys.end), "a query sees itself");
            let follows = |pair: &[Range<usize>]| pair[0].start <= pair[1].start && pair[0].end + 1 == pair[1].end;
            assert!(queries.windows(2).all(follows), "queries are consecutive keys");
            bounds.extend(queries.iter().flat_map(|keys| [keys.start as i32, keys.end as i32]));
            bounds.resize(bounds.len() + 2 * (num_queries - queries.len()), 0);
        }
        let queries = || sequences.iter().flatten();
        Self::Ragged(Ragged {
            bounds: Tensor::from_data(TensorData::new(bounds, [sequences.len(), num_queries, 2]), device),
            num_keys: queries().map(|keys| keys.end).max().unwrap_or(0),
            num_pairs: queries().map(Range::len).sum(),
            num_visible: sequences.iter().map(|queries| num_visible(queries)).sum(),
            max_visible: sequences.iter().map(|queries| num_visible(queries)).max().unwrap_or(0),
        })
    }

    /// One query per sequence, whose keys are written to `bounds` before each pass, `[batch_size, 1, 2]`, as [`ragged`](Self::ragged)
    /// would: up to `capacity` keys, of which a query sees `window` at most. Passes count no attention, since the host does not know
    /// the keys when it records them.
    pub fn of_bounds(bounds: Tensor<3, Int>, capacity: usize, window: Option<usize>) -> Self {
        let max_visible = window.map_or(capacity, |window| window.min(capacity));
        Self::Ragged(Ragged { bounds, num_keys: capacity, num_pairs: 0, num_visible: 0, max_visible })
    }

    /// One past the last key that one of `num_queries` queries sees.
    pub(super) fn num_keys(&self, num_queries: usize) -> usize {
        match self {
            Self::Band(Band { past, .. }) => past + num_queries,
            Self::Ragged(ragged) => ragged.num_keys,
        }
    }

    /// Pairs of a query and a key that it sees, which is the exact number of scores that reach the output.
    pub(super) fn num_pairs(&self, batch_size: usize, num_queries: usize) -> usize {
        match self {
            Self::Band(band) => batch_size * band.num_pairs(num_queries),
            Self::Ragged(ragged) => ragged.num_pairs,
        }
    }

    /// Keys that one of `num_queries` queries of each sequence sees, of all sequences.
    pub(super) fn num_visible(&self, batch_size: usize, num_queries: usize) -> usize {
        match self {
            Self::Band(band) => batch_size * band.num_visible(num_queries),
            Self::Ragged(ragged) => ragged.num_visible,
        }
    }

    /// First keys and ends, each `[batch_size or 1, num_queries]`, computed on the device.
    pub(super) fn bounds(&self, num_queries: usize, device: &Device) -> [Tensor<2, Int>; 2] {
        match self {
            Self::Band(Band { past, window }) => {
                let ends = Tensor::<1, Int>::arange(*past as i64 + 1..(past + num_queries) as i64 + 1, device);
                let ends = ends.reshape([1, num_queries]);
                let window = window.map_or(i64::from(i32::MAX), |window| window.min(i32::MAX as usize) as i64);
                [ends.clone().sub_scalar(window).clamp_min(0), ends]
            }
            Self::Ragged(Ragged { bounds, .. }) => {
                let [batch_size, ..] = bounds.dims();
                [0, 1].map(|which| bounds.clone().narrow(2, which, 1).reshape([batch_size, num_queries]))
            }
        }
    }
}

/// Keys that some query of a sequence sees: documents in a row of packed ones follow each other.
fn num_visible(queries: &[Range<usize>]) -> usize {
    match queries {
        [first, .., last] => last.end - first.start,
        [only] => only.len(),
        [] => 0,
    }
}

impl Band {
    /// The keys that query `query` sees.
    pub fn keys(&self, query: usize) -> Range<usize> {
        let end = self.past + query + 1;
        self.window.map_or(0, |window| end.saturating_sub(window))..end
    }

    /// Keys that one of `num_queries` queries sees.
    pub fn num_visible(&self, num_queries: usize) -> usize {
        self.keys(num_queries - 1).end - self.keys(0).start
    }

    /// Pairs of one of `num_queries` queries and a key that it sees.
    pub fn num_pairs(&self, num_queries: usize) -> usize {
        (0..num_queries).map(|query| self.keys(query).len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_a_triangle_without_a_window_and_a_band_with_one() {
        assert_eq!(Band { past: 0, window: None }.num_pairs(10), 55);
        assert_eq!(Band { past: 7, window: None }.num_pairs(1), 8);
        assert_eq!(Band { past: 0, window: Some(3) }.num_pairs(10), 1 + 2 + 8 * 3);
    }
}
