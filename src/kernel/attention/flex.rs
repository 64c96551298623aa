//! Attention on the CPU: a block of queries at a time, scores by GEMM over just the keys that the block sees.

use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex, TensorMetadata, backend_extension};
use rayon::prelude::*;

use super::Visibility;
use super::decode::one_query;
use crate::kernel::host::{Mat, MatMut, Threads, dense, gemm, softmax_in_place, tensor, values, vectorized};

/// Queries per block: scores of one block and the keys that it reads stay in the cache.
pub(super) const BLOCK: usize = 64;

#[backend_extension(Flex, Autodiff)]
pub trait Attention: Backend {
    fn attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        visibility: Visibility,
    ) -> FloatTensor<Self>;
}

/// The sizes of one call, and where a head's rows lie in the flat arrays.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub batch_size: usize,
    pub num_queries: usize,
    pub num_heads: usize,
    pub capacity: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
}

impl Sizes {
    pub(super) fn of(q: &FlexTensor, k: &FlexTensor) -> Self {
        let (q, k) = (q.shape(), k.shape());
        let [batch_size, num_queries, num_heads, head_dim] = [q[0], q[1], q[2], q[3]];
        Self { batch_size, num_queries, num_heads, capacity: k[1], num_kv_heads: k[2], head_dim }
    }

    /// Numbers in one position of `q`.
    pub(super) fn query_width(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Numbers in one position of `k` or `v`.
    pub(super) fn key_width(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }

    pub(super) fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// Rows `positions` of one key/value head of one sequence.
    pub(super) fn keys<'a>(
        &self,
        k: &'a [f32],
        batch: usize,
        kv_head: usize,
        positions: std::ops::Range<usize>,
    ) -> Mat<'a> {
        let start = (batch * self.capacity + positions.start) * self.key_width() + kv_head * self.head_dim;
        Mat::strided(&k[start..], positions.len(), self.head_dim, self.key_width())
    }

    /// Rows `queries` of one head of one sequence.
    pub(super) fn queries<'a>(
        &self,
        q: &'a [f32],
        batch: usize,
        head: usize,
        queries: std::ops::Range<usize>,
    ) -> Mat<'a> {
        let start = (batch * self.num_queries + queries.start) * self.query_width() + head * self.head_dim;
        Mat::strided(&q[start..], queries.len(), self.head_dim, self.query_width())
    }
}

/// `softmax` of the scaled scores of one block of queries, zero where a query does not see a key.
///
/// Returns the positions that the columns stand for.
pub(super) fn probabilities<'k>(
    sizes: Sizes,
    visibility: Visibility,
    q: Mat<'_>,
    queries: std::ops::Range<usize>,
    keys: impl FnOnce(std::ops::Range<usize>) -> Mat<'k>,
    scores: &mut Vec<f32>,
) -> std::ops::Range<usize> {
    let positions = visibility.keys(queries.start).start..visibility.keys(queries.end - 1).end;
    let columns = positions.len();
    scores.resize(queries.len() * columns, 0.0);
    gemm(MatMut::new(scores, queries.len(), columns), false, q, keys(positions.clone()).t(), Threads::One);
    vectorized!({
        for (row, query) in scores.chunks_exact_mut(columns).zip(queries) {
            let seen = visibility.keys(query);
            let seen = seen.start - positions.start..seen.end - positions.start;
            row[..seen.start].fill(0.0);
            row[seen.end..].fill(0.0);
            row[seen.clone()].iter_mut().for_each(|score| *score *= sizes.scale());
            softmax_in_place(&mut row[seen]);
        }
    });
    positions
}

impl Attention for Flex {
    fn attention_forward(q: FlexTensor, k: FlexTensor, v: FlexTensor, visibility: Visibility) -> FlexTensor {
        let (q, k, v) = (dense(q), dense(k), dense(v));
        let sizes = Sizes::of(&q, &k);
        let mut out = vec![0.0; values(&q).len()];
        let (q_values, k_values, v_values) = (values(&q), values(&k), values(&v));
        if sizes.num_queries == 1 {
            one_query(sizes, visibility, q_values, k_values, v_values, &mut out);
        } else {
            blocks(sizes, visibility, q_values, k_values, v_values, &mut out);
        }
        tensor(out, q.shape())
    }
}

/// Many queries: a task is a block of queries of one sequence, all heads.
fn blocks(sizes: Sizes, visibility: Visibility, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
    let width = sizes.query_width();
    let block = |(batch, index, out): (usize, usize, &mut [f32])| {
        let queries = index * BLOCK..index * BLOCK + out.len() / width;
        let mut scores = Vec::new();
        for head in 0..sizes.num_heads {
            let kv_head = head / (sizes.num_heads / sizes.num_kv_heads);
            let rows = sizes.queries(q, batch, head, queries.clone());
            let keys = |positions| sizes.keys(k, batch, kv_head, positions);
            let positions = probabilities(sizes, visibility, rows, queries.clone(), keys, &mut scores);
            let weights = Mat::new(&scores, queries.len(), positions.len());
            let target = MatMut::strided(&mut out[head * sizes.head_dim..], queries.len(), sizes.head_dim, width);
            gemm(target, false, weights, sizes.keys(v, batch, kv_head, positions), Threads::One);
        }
    };
    out.par_chunks_mut(sizes.num_queries * width).enumerate().for_each(|(batch, out)| {
        out.par_chunks_mut(BLOCK * width).enumerate().for_each(|(index, out)| block((batch, index, out)));
    });
}
