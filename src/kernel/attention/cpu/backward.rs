//! The gradients of attention. Scores are recomputed block by block, so that their matrix is never materialized.
//!
//! With `P = softmax(S)`, `S = scale·q·kᵀ`: `dV = Pᵀ·dO`, `dP = dO·Vᵀ`, `dS = P∘(dP − Σ_j P∘dP)`,
//! `dQ = scale·dS·K`, `dK = scale·dSᵀ·Q` (Dao et al., 2022, arXiv:2205.14135, §B.2).

use std::ops::Range;

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};
use rayon::prelude::*;

use super::super::{AttentionBackward, Inputs, Kept};
use super::layout::{BLOCK, Sizes, Visible};
use crate::kernel::cpu::{
    Mat, MatMut, SharedMat, Threads, dense, gemm, softmax_in_place, sum_by, tensor, values, vectorized,
};

/// Gradients of one key/value head of one sequence.
struct GroupGradients {
    /// `[capacity, head_dim]`.
    dk: Vec<f32>,
    /// `[capacity, head_dim]`.
    dv: Vec<f32>,
}

impl AttentionBackward for Flex {
    fn attention_backward(grad: FlexTensor, inputs: Inputs<Self>, _: Option<Kept<Self>>) -> [FlexTensor; 3] {
        let Inputs { q, k, v, mask } = inputs;
        let (grad, q, k, v) = (dense(grad), dense(q), dense(k), dense(v));
        let sizes = Sizes::of(&q, &k);
        let visible = Visible::new(mask, sizes.num_queries);
        let d = sizes.head_dim;
        let mut dq = vec![0.0; values(&q).len()];
        let dq_rows = SharedMat::new(MatMut::new(&mut dq, sizes.batch_size * sizes.num_queries, sizes.query_width()));
        let parts: Vec<GroupGradients> = (0..sizes.batch_size * sizes.num_kv_heads)
            .into_par_iter()
            .map(|index| {
                let (batch, kv_head) = (index / sizes.num_kv_heads, index % sizes.num_kv_heads);
                group(sizes, &visible, [batch, kv_head], [&grad, &q, &k, &v].map(values), &dq_rows)
            })
            .collect();
        let gather = |part: fn(&GroupGradients) -> &[f32]| {
            let mut out = vec![0.0; values(&k).len()];
            out.par_chunks_exact_mut(sizes.key_width()).enumerate().for_each(|(row, out)| {
                let (batch, position) = (row / sizes.capacity, row % sizes.capacity);
                for (kv_head, out) in out.chunks_exact_mut(d).enumerate() {
                    let part = part(&parts[batch * sizes.num_kv_heads + kv_head]);
                    out.copy_from_slice(&part[position * d..(position + 1) * d]);
                }
            });
            tensor(out, k.shape())
        };
        [tensor(dq, q.shape()), gather(|part| &part.dk), gather(|part| &part.dv)]
    }
}

impl Sizes {
    /// Rows `queries` of all heads of `x` that read one key/value head of one sequence, head by head.
    fn gather(&self, x: &[f32], batch: usize, kv_head: usize, queries: Range<usize>) -> Vec<f32> {
        let mut gathered = Vec::with_capacity(self.group() * queries.len() * self.head_dim);
        for head in kv_head * self.group()..(kv_head + 1) * self.group() {
            for query in queries.clone() {
                let start = (batch * self.num_queries + query) * self.query_width() + head * self.head_dim;
                gathered.extend_from_slice(&x[start..start + self.head_dim]);
            }
        }
        gathered
    }

    /// The inverse of [`gather`](Self::gather).
    ///
    /// # Safety
    /// No other task accesses these queries of these heads of `out`.
    #[expect(unsafe_code, reason = "only the caller knows that the places are distinct")]
    unsafe fn scatter(&self, rows: &[f32], out: &SharedMat<'_>, batch: usize, kv_head: usize, queries: Range<usize>) {
        for (index, numbers) in rows.chunks_exact(self.head_dim).enumerate() {
            let head = kv_head * self.group() + index / queries.len();
            let query = batch * self.num_queries + queries.start + index % queries.len();
            // SAFETY: the caller's promise is that of `row`.
            unsafe { out.row(query, head * self.head_dim..(head + 1) * self.head_dim) }.copy_from_slice(numbers);
        }
    }
}

/// The gradients of one group; those of its queries are written to `dq_rows`.
#[expect(unsafe_code, reason = "each group writes to its own heads")]
fn group(
    sizes: Sizes,
    visible: &Visible,
    [batch, kv_head]: [usize; 2],
    [grad, q, k, v]: [&[f32]; 4],
    dq_rows: &SharedMat<'_>,
) -> GroupGradients {
    let d = sizes.head_dim;
    let mut out = GroupGradients { dk: vec![0.0; sizes.capacity * d], dv: vec![0.0; sizes.capacity * d] };
    let (mut p, mut ds) = (Vec::new(), Vec::new());
    let num_queries = visible.num_queries(batch);
    for start in (0..num_queries).step_by(BLOCK) {
        let queries = start..(start + BLOCK).min(num_queries);
        let rows = sizes.group() * queries.len();
        let q_rows = sizes.gather(q, batch, kv_head, queries.clone());
        let grad_rows = sizes.gather(grad, batch, kv_head, queries.clone());
        let (q_block, grad_block) = (Mat::new(&q_rows, rows, d), Mat::new(&grad_rows, rows, d));
        let positions = probabilities(sizes, visible, q_block, queries.clone(), [batch, kv_head], k, &mut p);
        let columns = positions.len();
        let key_rows = positions.start * d..positions.end * d;

        let p_block = Mat::new(&p, rows, columns);
        gemm(MatMut::new(&mut out.dv[key_rows.clone()], columns, d), true, p_block.t(), grad_block, Threads::One);

        ds.resize(rows * columns, 0.0);
        let v_rows = sizes.keys(v, batch, kv_head, positions.clone());
        gemm(MatMut::new(&mut ds, rows, columns), false, grad_block, v_rows.t(), Threads::One);
        vectorized!({
            for (ds, p) in ds.chunks_exact_mut(columns).zip(p.chunks_exact(columns)) {
                let mean = sum_by(columns, |j| ds[j] * p[j]);
                ds.iter_mut().zip(p).for_each(|(ds, p)| *ds = p * (*ds - mean) * sizes.scale());
            }
        });

        let ds_block = Mat::new(&ds, rows, columns);
        let k_rows = sizes.keys(k, batch, kv_head, positions.clone());
        gemm(MatMut::new(&mut out.dk[key_rows], columns, d), true, ds_block.t(), q_block, Threads::One);
        let mut dq = q_rows;
        gemm(MatMut::new(&mut dq, rows, d), false, ds_block, k_rows, Threads::One);
        // SAFETY: a group is one task, and no other has its heads.
        unsafe { sizes.scatter(&dq, dq_rows, batch, kv_head, queries) };
    }
    out
}

/// `softmax` of the scaled scores of a block of queries, head by head; zero where a query does not see a key. Returns the
/// keys of the columns.
fn probabilities(
    sizes: Sizes,
    visible: &Visible,
    q: Mat<'_>,
    queries: Range<usize>,
    [batch, kv_head]: [usize; 2],
    k: &[f32],
    scores: &mut Vec<f32>,
) -> Range<usize> {
    let positions = visible.keys_of_all(batch, &queries);
    let (rows, columns) = (sizes.group() * queries.len(), positions.len());
    scores.resize(rows * columns, 0.0);
    let keys = sizes.keys(k, batch, kv_head, positions.clone());
    gemm(MatMut::new(scores, rows, columns), false, q, keys.t(), Threads::One);
    vectorized!({
        for (row, query) in scores.chunks_exact_mut(columns).zip(queries.cycle()) {
            let seen = visible.keys(batch, query);
            let seen = seen.start - positions.start..seen.end - positions.start;
            row[..seen.start].fill(0.0);
            row[seen.end..].fill(0.0);
            row[seen.clone()].iter_mut().for_each(|score| *score *= sizes.scale());
            softmax_in_place(&mut row[seen]);
        }
    });
    positions
}
