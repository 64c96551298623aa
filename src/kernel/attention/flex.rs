//! Attention on the CPU, on plain slices: sizes, places, and what is shared between tasks.

use std::ops::Range;

use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex, TensorMetadata, backend_extension};

use super::decode::one_query;
use super::{CausalMask, flash};
use crate::kernel::cpu::{Mat, MatMut, SharedMat, Threads, dense, tensor, values};

/// Queries of a task, of all heads that read one key/value head.
pub(super) const BLOCK: usize = 64;

#[backend_extension(Flex, Autodiff)]
pub trait Attention: Backend {
    fn attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        mask: CausalMask,
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
    pub(super) fn keys<'a>(&self, k: &'a [f32], batch: usize, kv_head: usize, positions: Range<usize>) -> Mat<'a> {
        let start = (batch * self.capacity + positions.start) * self.key_width() + kv_head * self.head_dim;
        Mat::strided(&k[start..], positions.len(), self.head_dim, self.key_width())
    }

    /// Rows `queries` of one head of one sequence.
    pub(super) fn queries<'a>(&self, q: &'a [f32], batch: usize, head: usize, queries: Range<usize>) -> Mat<'a> {
        let start = (batch * self.num_queries + queries.start) * self.query_width() + head * self.head_dim;
        Mat::strided(&q[start..], queries.len(), self.head_dim, self.query_width())
    }

    /// Writes new rows of `k` or `v`, of all sequences, to a cache at the positions from `start` on.
    pub(super) fn append(&self, new: &[f32], cache: &mut [f32], start: usize) {
        let (room, len) = (self.capacity * self.key_width(), self.num_queries * self.key_width());
        for batch in 0..self.batch_size {
            let place = batch * room + start * self.key_width();
            cache[place..place + len].copy_from_slice(&new[batch * len..(batch + 1) * len]);
        }
    }

    /// Query heads that read one key/value head.
    pub(super) fn group(&self) -> usize {
        self.num_heads / self.num_kv_heads
    }
}

impl Attention for Flex {
    fn attention_forward(q: FlexTensor, k: FlexTensor, v: FlexTensor, mask: CausalMask) -> FlexTensor {
        let (q, k, v) = (dense(q), dense(k), dense(v));
        let sizes = Sizes::of(&q, &k);
        tensor(attend(sizes, mask, values(&q), values(&k), values(&v)), q.shape())
    }
}

/// Attention on plain slices.
pub(super) fn attend(sizes: Sizes, mask: CausalMask, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; q.len()];
    match sizes.num_queries {
        1 => one_query(sizes, mask, [q, k, v], &mut out),
        _ => blocks(sizes, mask, [q, k, v], &mut out),
    }
    out
}

/// Many queries: a task is a block of queries of one sequence, all heads that read one key/value head.
#[expect(unsafe_code, reason = "the tasks of a loop write to distinct places")]
fn blocks(sizes: Sizes, mask: CausalMask, qkv: [&[f32]; 3], out: &mut [f32]) {
    let groups = sizes.batch_size * sizes.num_kv_heads;
    let num_blocks = sizes.num_queries.div_ceil(BLOCK);
    let target = SharedMat::of(MatMut::new(out, sizes.batch_size * sizes.num_queries, sizes.query_width()));
    Threads::Pool.for_each(groups * num_blocks, |index| {
        // The last queries see the most keys: they go first, so that no thread is left with them at the end.
        let block = num_blocks - 1 - index / groups;
        let group = [index % groups / sizes.num_kv_heads, index % groups % sizes.num_kv_heads];
        let queries = block * BLOCK..((block + 1) * BLOCK).min(sizes.num_queries);
        // SAFETY: each task has a block of queries and some heads of its own.
        unsafe { flash::block(sizes, mask, group, queries, qkv, &target) };
    });
}
