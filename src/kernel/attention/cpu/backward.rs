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

/// Queries of a task, at most: a long sequence has several tasks, whose gradients of keys and values are added.
const RUN: usize = 8 * BLOCK;

/// Gradients of one key/value head of one sequence, from the queries of a task.
struct GroupGradients {
    /// The keys that these queries see.
    keys: Range<usize>,
    /// `[keys, head_dim]`.
    dk: Vec<f32>,
    /// `[keys, head_dim]`.
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
        let tasks: Vec<_> = (0..sizes.batch_size * sizes.num_kv_heads)
            .map(|index| [index / sizes.num_kv_heads, index % sizes.num_kv_heads])
            .flat_map(|group| visible.runs(group[0], RUN).into_iter().map(move |queries| (group, queries)))
            .collect();
        let parts: Vec<([usize; 2], GroupGradients)> = tasks
            .into_par_iter()
            .with_max_len(1)
            .map(|(index, queries)| {
                (index, group(sizes, &visible, index, queries, [&grad, &q, &k, &v].map(values), &dq_rows))
            })
            .collect();
        let gather = |part: fn(&GroupGradients) -> &[f32]| {
            let mut out = vec![0.0; values(&k).len()];
            out.par_chunks_exact_mut(sizes.capacity * sizes.key_width()).enumerate().for_each(|(batch, out)| {
                for ([_, kv_head], found) in parts.iter().filter(|(group, _)| group[0] == batch) {
                    let rows = out.chunks_exact_mut(sizes.key_width()).skip(found.keys.start);
                    for (row, terms) in rows.zip(part(found).chunks_exact(d)) {
                        let sums = &mut row[kv_head * d..(kv_head + 1) * d];
                        sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
                    }
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

/// The gradients of one group from some queries; those of the queries are written to `dq_rows`.
#[expect(unsafe_code, reason = "each task writes to its own queries of its own heads")]
fn group(
    sizes: Sizes,
    visible: &Visible,
    [batch, kv_head]: [usize; 2],
    run: Range<usize>,
    [grad, q, k, v]: [&[f32]; 4],
    dq_rows: &SharedMat<'_>,
) -> GroupGradients {
    let d = sizes.head_dim;
    let keys = visible.keys_of_all(batch, &run);
    let [dk, dv] = [(); 2].map(|()| vec![0.0; keys.len() * d]);
    let mut out = GroupGradients { keys, dk, dv };
    let (mut p, mut ds) = (Vec::new(), Vec::new());
    for start in run.clone().step_by(BLOCK) {
        let queries = start..(start + BLOCK).min(run.end);
        let rows = sizes.group() * queries.len();
        let q_rows = sizes.gather(q, batch, kv_head, queries.clone());
        let grad_rows = sizes.gather(grad, batch, kv_head, queries.clone());
        let (q_block, grad_block) = (Mat::new(&q_rows, rows, d), Mat::new(&grad_rows, rows, d));
        let positions = probabilities(sizes, visible, q_block, queries.clone(), [batch, kv_head], k, &mut p);
        let columns = positions.len();
        let key_rows = (positions.start - out.keys.start) * d..(positions.end - out.keys.start) * d;

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
        // SAFETY: no other task has these queries of this group.
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
