//! Which keys each query sees.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

/// Which keys each query sees: its own is the last one. They are contiguous, except in [`Forked`] sequences.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "one per pass")]
pub enum CausalMask {
    /// The queries of every sequence are at the same positions.
    Band(Band),
    /// Sequences differ in how many keys they have, or a sequence is several documents.
    Ragged(Ragged),
    /// Documents have several continuations.
    Forked(Forked),
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

/// Continuations of a document that follow it one after another and do not see each other. Kept on the host.
#[derive(Debug, Clone)]
pub struct Forked {
    /// What each query of each sequence sees.
    pub(super) sequences: Arc<[Vec<Seen>]>,
}

/// The keys that a query sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// From the first one to its own.
    pub keys: Range<usize>,
    /// Those in between that it does not see; may be empty.
    pub hidden: Range<usize>,
}

impl Seen {
    fn count(&self) -> usize {
        self.keys.len() - self.hidden.len()
    }
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
            assert_consecutive(queries.iter());
            bounds.extend(queries.iter().flat_map(|keys| [keys.start as i32, keys.end as i32]));
            bounds.resize(bounds.len() + 2 * (num_queries - queries.len()), 0);
        }
        let queries = || sequences.iter().flatten();
        Self::Ragged(Ragged {
            bounds: Tensor::from_data(TensorData::new(bounds, [sequences.len(), num_queries, 2]), device),
            num_keys: queries().map(|keys| keys.end).max().unwrap_or(0),
            num_pairs: queries().map(Range::len).sum(),
            num_visible: sequences.iter().map(|queries| num_visible(queries.iter())).sum(),
            max_visible: sequences.iter().map(|queries| num_visible(queries.iter())).max().unwrap_or(0),
        })
    }

    /// What each query of each sequence sees. All sequences have the same number of queries. On devices without a
    /// [kernel](super::has_forked_kernel), all scores are materialized.
    ///
    /// # Panics
    /// As [`ragged`](Self::ragged), or if a query does not see itself or the first of its keys.
    pub fn forked(sequences: Vec<Vec<Seen>>) -> Self {
        assert!(sequences.first().is_some_and(|queries| !queries.is_empty()), "a mask of no queries");
        for queries in &sequences {
            assert_eq!(queries.len(), sequences[0].len(), "queries of each sequence");
            assert_consecutive(queries.iter().map(|seen| &seen.keys));
            let is_between = |Seen { keys, hidden }: &Seen| {
                hidden.is_empty() || (keys.start < hidden.start && hidden.end < keys.end)
            };
            assert!(queries.iter().all(is_between), "a query sees itself and the first of its keys");
        }
        Self::Forked(Forked { sequences: sequences.into() })
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
            Self::Forked(Forked { sequences }) => {
                sequences.iter().flatten().map(|seen| seen.keys.end).max().unwrap_or(0)
            }
        }
    }

    /// Pairs of a query and a key that it sees, which is the exact number of scores that reach the output.
    pub(super) fn num_pairs(&self, batch_size: usize, num_queries: usize) -> usize {
        match self {
            Self::Band(band) => batch_size * band.num_pairs(num_queries),
            Self::Ragged(ragged) => ragged.num_pairs,
            Self::Forked(Forked { sequences }) => sequences.iter().flatten().map(Seen::count).sum(),
        }
    }

    /// Keys that one of `num_queries` queries of each sequence sees, of all sequences.
    pub(super) fn num_visible(&self, batch_size: usize, num_queries: usize) -> usize {
        match self {
            Self::Band(band) => batch_size * band.num_visible(num_queries),
            Self::Ragged(ragged) => ragged.num_visible,
            Self::Forked(Forked { sequences }) => {
                // A key that is hidden from later queries is one that those before them saw.
                sequences.iter().map(|queries| num_visible(queries.iter().map(|seen| &seen.keys))).sum()
            }
        }
    }

    /// Which keys each query does not see, `[batch_size or 1, num_queries, num_keys]`, and which queries are padding,
    /// `[batch_size, num_queries, 1]`; `None` if the mask has no padding. Padding sees the first key, so that no
    /// score is NaN.
    pub(super) fn hidden(&self, num_queries: usize, device: &Device) -> (Tensor<3, Bool>, Option<Tensor<3, Bool>>) {
        let num_keys = self.num_keys(num_queries);
        let outside = |first: Tensor<3, Int>, end: Tensor<3, Int>| {
            let shape = [first.dims()[0], num_queries, num_keys];
            let keys = Tensor::<1, Int>::arange(0..num_keys as i64, device).reshape([1, 1, num_keys]).expand(shape);
            keys.clone().lower(first.expand(shape)).bool_or(keys.greater_equal(end.expand(shape)))
        };
        match self {
            Self::Band(Band { past, window }) => {
                let ends = Tensor::<1, Int>::arange(*past as i64 + 1..(past + num_queries) as i64 + 1, device);
                let ends = ends.reshape([1, num_queries, 1]);
                let window = window.map_or(i64::from(i32::MAX), |window| window.min(i32::MAX as usize) as i64);
                (outside(ends.clone().sub_scalar(window).clamp_min(0), ends), None)
            }
            Self::Ragged(Ragged { bounds, .. }) => {
                let [first, end] = [0, 1].map(|which| bounds.clone().narrow(2, which, 1));
                (outside(first, end.clone().clamp_min(1)), Some(end.equal_elem(0)))
            }
            Self::Forked(Forked { sequences }) => {
                let is_hidden = |seen: &Seen, key: usize| !seen.keys.contains(&key) || seen.hidden.contains(&key);
                let of_query = |seen| (0..num_keys).map(move |key| is_hidden(seen, key));
                let hidden: Vec<bool> = sequences.iter().flatten().flat_map(of_query).collect();
                (Tensor::from_data(TensorData::new(hidden, [sequences.len(), num_queries, num_keys]), device), None)
            }
        }
    }
}

/// # Panics
/// If a query does not see itself, or the queries are not consecutive keys.
fn assert_consecutive<'a>(queries: impl Iterator<Item = &'a Range<usize>> + Clone) {
    assert!(queries.clone().all(|keys| keys.start < keys.end), "a query sees itself");
    let follows = |(a, b): (&Range<usize>, &Range<usize>)| a.start <= b.start && a.end + 1 == b.end;
    assert!(queries.clone().zip(queries.skip(1)).all(follows), "queries are consecutive keys");
}

/// Keys that some query of a sequence sees: documents in a row of packed ones follow each other.
fn num_visible<'a>(queries: impl Iterator<Item = &'a Range<usize>> + Clone) -> usize {
    let ends = queries.clone().next().zip(queries.last());
    ends.map_or(0, |(first, last)| last.end - first.start)
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

    #[test]
    fn a_fork_sees_neither_the_keys_nor_the_pairs_of_another() {
        let seen = |keys, hidden| Seen { keys, hidden };
        let queries = [seen(0..1, 0..0), seen(0..2, 0..0), seen(0..3, 0..0), seen(0..4, 2..3), seen(4..5, 0..0)];
        let mask = CausalMask::forked(vec![queries.to_vec()]);
        assert_eq!([mask.num_keys(5), mask.num_pairs(1, 5), mask.num_visible(1, 5)], [5, 1 + 2 + 3 + 3 + 1, 5]);
    }

    #[test]
    #[should_panic(expected = "a query sees itself and the first of its keys")]
    fn a_query_that_does_not_see_itself_is_refused() {
        CausalMask::forked(vec![vec![Seen { keys: 0..1, hidden: 0..0 }, Seen { keys: 0..2, hidden: 1..2 }]]);
    }
}
