//! Tasks of the forward pass.

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};

use super::super::{Attention, Forked, ForkedAttention, Mask};
use super::decode::one_query;
use super::flash;
use super::layout::{BLOCK, Sizes, Visible};
use crate::kernel::cpu::{MatMut, SharedMat, Threads, dense, empty, tensor, values};

impl Attention for Flex {
    fn attention_forward(q: FlexTensor, k: FlexTensor, v: FlexTensor, mask: Mask<Self>) -> FlexTensor {
        let num_queries = q.shape()[1];
        of_tensors(q, k, v, &Visible::new(mask, num_queries))
    }
}

impl ForkedAttention for Flex {
    fn forked_attention(q: FlexTensor, k: FlexTensor, v: FlexTensor, mask: Forked) -> FlexTensor {
        of_tensors(q, k, v, &mask.into())
    }
}

fn of_tensors(q: FlexTensor, k: FlexTensor, v: FlexTensor, visible: &Visible) -> FlexTensor {
    let [q, k, v] = [q, k, v].map(dense);
    tensor(attend(Sizes::of(&q, &k), visible, [&q, &k, &v].map(values)), q.shape())
}

/// Attention on plain slices. How many queries a sequence has decides how it is computed, so it has the same bits in any
/// batch.
pub fn attend(sizes: Sizes, visible: &Visible, qkv: [&[f32]; 3]) -> Vec<f32> {
    let mut out = empty(qkv[0].len());
    for batch in 0..sizes.batch_size {
        // Padding.
        let [first, end] =
            [visible.num_queries(batch), sizes.num_queries].map(|query| batch * sizes.num_queries + query);
        out[first * sizes.query_width()..end * sizes.query_width()].fill(0.0);
    }
    let is_one = |batch: &usize| visible.num_queries(*batch) == 1 && visible.hidden(*batch, 0).is_empty();
    let (of_one, others): (Vec<_>, Vec<_>) = (0..sizes.batch_size).partition(is_one);
    one_query(sizes, visible, &of_one, qkv, &mut out);
    blocks(sizes, visible, &others, qkv, &mut out);
    out
}

/// Sequences of many queries: a task is a block of queries of one sequence, all heads that read one key/value head.
#[expect(unsafe_code, reason = "the tasks of a loop write to distinct places")]
fn blocks(sizes: Sizes, visible: &Visible, sequences: &[usize], qkv: [&[f32]; 3], out: &mut [f32]) {
    let most = sequences.iter().map(|&batch| visible.num_queries(batch)).max().unwrap_or(0);
    // The last queries see the most keys: they go first, so that no thread is left with them at the end.
    let starts = (0..most).step_by(BLOCK).rev();
    let block = |start: usize| {
        let long = sequences.iter().filter(move |&&batch| visible.num_queries(batch) > start);
        long.map(move |&batch| (batch, start..(start + BLOCK).min(visible.num_queries(batch))))
    };
    let blocks: Vec<_> = starts.flat_map(block).collect();
    let target = SharedMat::new(MatMut::new(out, sizes.batch_size * sizes.num_queries, sizes.query_width()));
    Threads::Pool.for_each(blocks.len() * sizes.num_kv_heads, |index| {
        let (batch, queries) = blocks[index / sizes.num_kv_heads].clone();
        let group = [batch, index % sizes.num_kv_heads];
        // SAFETY: each task has a block of queries and some heads of its own.
        unsafe { flash::block(sizes, visible, group, queries, qkv, &target) };
    });
}
