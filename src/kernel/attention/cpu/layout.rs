//! Where everything is in the flat arrays of attention, and which keys a query sees.

use std::ops::Range;
use std::sync::Arc;

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};

use super::super::{Band, Forked, Mask, Seen};
use crate::kernel::cpu::{Mat, indices};

/// Queries of a task, of all heads that read one key/value head.
pub const BLOCK: usize = 64;

/// The sizes of one call, and where the rows of a head are in the flat arrays.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub batch_size: usize,
    pub num_queries: usize,
    pub num_heads: usize,
    pub capacity: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
}

impl Sizes {
    pub fn of(q: &FlexTensor, k: &FlexTensor) -> Self {
        let (q, k) = (q.shape(), k.shape());
        let [batch_size, num_queries, num_heads, head_dim] = [q[0], q[1], q[2], q[3]];
        Self { batch_size, num_queries, num_heads, capacity: k[1], num_kv_heads: k[2], head_dim }
    }

    /// Elements of one position of `q`.
    pub fn query_width(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Elements of one position of `k` or `v`.
    pub fn key_width(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }

    pub fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// Rows `positions` of one key/value head of one sequence.
    pub fn keys<'a>(&self, k: &'a [f32], batch: usize, kv_head: usize, positions: Range<usize>) -> Mat<'a> {
        let start = (batch * self.capacity + positions.start) * self.key_width() + kv_head * self.head_dim;
        Mat::strided(&k[start..], positions.len(), self.head_dim, self.key_width())
    }

    /// Rows `queries` of one head of one sequence.
    pub fn queries<'a>(&self, q: &'a [f32], batch: usize, head: usize, queries: Range<usize>) -> Mat<'a> {
        let start = (batch * self.num_queries + queries.start) * self.query_width() + head * self.head_dim;
        Mat::strided(&q[start..], queries.len(), self.head_dim, self.query_width())
    }

    /// Copies the new rows of `k` or `v` to the cache, each to the place of its query.
    pub fn append(&self, new: &[f32], cache: &mut [f32], visible: &Visible) {
        let width = self.key_width();
        for batch in 0..self.batch_size {
            let (num_queries, first) = (visible.num_queries(batch), visible.first_place(batch));
            let (from, to) = (batch * self.num_queries * width, (batch * self.capacity + first) * width);
            cache[to..to + num_queries * width].copy_from_slice(&new[from..from + num_queries * width]);
        }
    }

    /// Query heads that read one key/value head.
    pub fn group(&self) -> usize {
        self.num_heads / self.num_kv_heads
    }
}

/// Which keys each query sees, on the host. Along a sequence, neither the first nor the last of them goes back.
#[derive(Debug)]
pub enum Visible {
    Band { band: Band, num_queries: usize },
    Ragged { sequences: Vec<Vec<Range<usize>>> },
    Forked { sequences: Arc<[Vec<Seen>]> },
}

impl From<Forked> for Visible {
    fn from(Forked { sequences }: Forked) -> Self {
        Self::Forked { sequences }
    }
}

impl Visible {
    pub fn new(mask: Mask<Flex>, num_queries: usize) -> Self {
        match mask {
            Mask::Band(band) => Self::Band { band, num_queries },
            Mask::Ragged { bounds, .. } => {
                let bounds = indices(&bounds);
                let queries = bounds.as_chunks::<2>().0.chunks(num_queries);
                let keys = |queries: &[[usize; 2]]| {
                    queries.iter().take_while(|[_, end]| *end > 0).map(|[first, end]| *first..*end).collect()
                };
                Self::Ragged { sequences: queries.map(keys).collect() }
            }
        }
    }

    /// Queries of a sequence, without the padding behind them.
    pub fn num_queries(&self, batch: usize) -> usize {
        match self {
            Self::Band { num_queries, .. } => *num_queries,
            Self::Ragged { sequences } => sequences[batch].len(),
            Self::Forked { sequences } => sequences[batch].len(),
        }
    }

    /// From the first to the last of the keys that a query sees.
    pub fn keys(&self, batch: usize, query: usize) -> Range<usize> {
        match self {
            Self::Band { band, .. } => band.keys(query),
            Self::Ragged { sequences } => sequences[batch][query].clone(),
            Self::Forked { sequences } => sequences[batch][query].keys.clone(),
        }
    }

    /// The keys inside that range that the query does not see. Empty without forks.
    pub fn hidden(&self, batch: usize, query: usize) -> Range<usize> {
        match self {
            Self::Band { .. } | Self::Ragged { .. } => 0..0,
            Self::Forked { sequences } => sequences[batch][query].hidden.clone(),
        }
    }

    /// From the first to the last of the keys that some queries see.
    ///
    /// # Panics
    /// If there are no queries.
    pub fn keys_of_all(&self, batch: usize, queries: &Range<usize>) -> Range<usize> {
        assert!(!queries.is_empty(), "some queries");
        self.keys(batch, queries.start).start..self.keys(batch, queries.end - 1).end
    }

    /// From the first to the last of the keys that some queries see, in one run, or in two around the keys that are hidden from all
    /// of them.
    ///
    /// # Panics
    /// If there are no queries.
    pub fn runs_of_keys(&self, batch: usize, queries: &Range<usize>) -> [Range<usize>; 2] {
        let keys = self.keys_of_all(batch, queries);
        let both = |a: Range<usize>, b: Range<usize>| a.start.max(b.start)..a.end.min(b.end);
        let hidden = match self {
            Self::Band { .. } | Self::Ragged { .. } => 0..0,
            Self::Forked { .. } => queries.clone().map(|query| self.hidden(batch, query)).fold(keys.clone(), both),
        };
        if hidden.is_empty() { [keys, 0..0] } else { [keys.start..hidden.start, hidden.end..keys.end] }
    }

    /// Consecutive queries of a sequence, at most `most`, cut where a document begins. Shorter ones than a [`BLOCK`] stay
    /// with those behind them.
    ///
    /// # Panics
    /// If `most` is no multiple of [`BLOCK`].
    pub fn runs(&self, batch: usize, most: usize) -> Vec<Range<usize>> {
        assert!(most > 0 && most.is_multiple_of(BLOCK), "whole blocks");
        let num_queries = self.num_queries(batch);
        let begins = |query: usize| self.keys(batch, query).start >= self.keys(batch, query - 1).end;
        let (mut runs, mut start) = (Vec::new(), 0);
        for end in 1..=num_queries {
            if end == num_queries || (end - start >= BLOCK && begins(end)) {
                let parts = (end - start).div_ceil(most);
                let step = (end - start).div_ceil(parts).next_multiple_of(BLOCK);
                runs.extend((start..end).step_by(step).map(|first| first..(first + step).min(end)));
                start = end;
            }
        }
        runs
    }

    /// Which key the first query of a sequence is; 0 if it has none.
    pub fn first_place(&self, batch: usize) -> usize {
        if self.num_queries(batch) == 0 { 0 } else { self.keys(batch, 0).end - 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_queries_are_documents_or_parts_of_a_long_one() {
        let document = |queries: Range<usize>| queries.clone().map(move |query| queries.start..query + 1);
        let documents = [0..70, 70..90, 90..150, 150..420];
        let sequences = vec![documents.into_iter().flat_map(document).collect(), Vec::new()];
        let visible = Visible::Ragged { sequences };
        assert_eq!(visible.runs(0, 2 * BLOCK), [0..70, 70..150, 150..278, 278..406, 406..420]);
        assert_eq!(visible.runs(0, 8 * BLOCK), [0..70, 70..150, 150..420]);
        assert!(visible.runs(1, BLOCK).is_empty());
        let window = |window| Visible::Band { band: Band { past: 7, window }, num_queries: 130 };
        assert_eq!(window(None).runs(0, 2 * BLOCK), [0..128, 128..130]);
        // Each query sees itself alone.
        assert_eq!(window(Some(1)).runs(0, 2 * BLOCK), [0..64, 64..128, 128..130]);
    }

    #[test]
    fn keys_that_are_hidden_from_all_queries_of_a_fork_are_in_no_run() {
        // A document of three tokens with two continuations of two.
        let seen = |keys, hidden| Seen { keys, hidden };
        let first = (0..5).map(|query| seen(0..query + 1, 0..0));
        let queries = first.chain([seen(0..6, 3..5), seen(0..7, 3..5)]).collect();
        let visible = Visible::Forked { sequences: vec![queries].into() };
        assert_eq!(visible.runs_of_keys(0, &(5..7)), [0..3, 5..7]);
        assert_eq!(visible.runs_of_keys(0, &(4..7)), [0..7, 0..0]);
        assert_eq!(visible.runs_of_keys(0, &(0..5)), [0..5, 0..0]);
    }

    #[test]
    fn some_queries_see_from_the_first_key_of_the_first_to_the_last_of_the_last() {
        let visible = |window| Visible::Band { band: Band { past: 7, window }, num_queries: 5 };
        assert_eq!(visible(None).keys_of_all(0, &(2..5)), 0..12);
        assert_eq!(visible(Some(3)).keys_of_all(0, &(2..5)), 7..12);
    }
}
