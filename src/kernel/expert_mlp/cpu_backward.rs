//! The gradients of the experts on the CPU.
//!
//! For one visit with weight `w` and hidden state `h = silu(g) ∘ u`: `z = downᵀ·dy`, `dw = z·h`, `dh = w·z`,
//! `dg = dh ∘ u ∘ silu'(g)`, `du = dh ∘ silu(g)`, `dx = gateᵀ·dg + upᵀ·du`; the matrices sum over the visits of
//! their expert: `dgate = Σ dg·xᵀ`, `dup = Σ du·xᵀ`, `ddown = Σ dy·(w·h)ᵀ`.

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::DType;
use rayon::prelude::*;

use super::cpu::forward;
use super::visits::{Visits, split_by_blocks};
use super::{ExpertMlpBackward, Gradients, Inputs};
use crate::kernel::cpu::{
    Mat, MatMut, Threads, WeightRows, dense, matmul_nn, matmul_tn, silu_derivative, sum_by, tensor, values, vectorized,
};

/// Gradients per visit, in sorted order.
struct VisitGradients {
    /// `[num_visits, intermediate_size]`.
    dgate: Vec<f32>,
    /// `[num_visits, intermediate_size]`.
    dup: Vec<f32>,
    /// `w·h`, `[num_visits, intermediate_size]`.
    weighted: Vec<f32>,
    /// `[num_visits, hidden_size]`.
    dx: Vec<f32>,
    /// `[num_visits]`.
    dweight: Vec<f32>,
}

impl ExpertMlpBackward for Flex {
    fn expert_mlp_saved(inputs: Inputs<Self>, experts: FlexTensor) -> [FlexTensor; 3] {
        let [x, weights, gate, up, down] = contiguous(inputs);
        let (width, hidden) = (gate.shape()[1], gate.shape()[2]);
        let visits = Visits::sort(&experts, gate.shape()[0]);
        let forward = forward(&visits, &x, [&gate, &up, &down]);
        let y = visits.scatter(&forward.y, hidden, |visit| values(&weights)[visit]);
        let saved = [visits.order.len(), width];
        [tensor(y, x.shape()), tensor(forward.gate, saved), tensor(forward.up, saved)]
    }

    fn expert_mlp_backward(
        grad: FlexTensor,
        inputs: Inputs<Self>,
        experts: FlexTensor,
        saved: [FlexTensor; 2],
        of_matrices: bool,
    ) -> Gradients<Self> {
        let grad = dense(grad);
        let inputs = contiguous(inputs);
        let [x, weights, gate, up, down] = &inputs;
        let (num_experts, hidden) = (gate.shape()[0], gate.shape()[2]);
        let visits = Visits::sort(&experts, num_experts);
        let per_visit = visit_gradients(&visits, &grad, &inputs, &saved);
        let dx = visits.scatter(&per_visit.dx, hidden, |_| 1.0);
        let dweights = visits.place.iter().map(|&place| per_visit.dweight[place]).collect();
        let of_matrices = of_matrices.then(|| {
            let [dgate, dup, ddown] = matrix_gradients(&visits, &grad, x, &per_visit, num_experts, gate.dtype());
            [tensor(dgate, gate.shape()), tensor(dup, up.shape()), tensor(ddown, down.shape())]
        });
        ([tensor(dx, x.shape()), tensor(dweights, weights.shape())], of_matrices)
    }
}

/// The activations, and the stacks of matrices in the type in which products read them, without strides.
fn contiguous([x, weights, gate, up, down]: Inputs<Flex>) -> Inputs<Flex> {
    [dense(x), dense(weights), gate.to_contiguous(), up.to_contiguous(), down.to_contiguous()]
}

fn visit_gradients(
    visits: &Visits,
    grad: &FlexTensor,
    [_, weights, gate, up, down]: &Inputs<Flex>,
    [gate_out, up_out]: &[FlexTensor; 2],
) -> VisitGradients {
    let (width, hidden) = (gate.shape()[1], gate.shape()[2]);
    let num_visits = visits.order.len();
    let mut out = VisitGradients {
        dgate: vec![0.0; num_visits * width],
        dup: vec![0.0; num_visits * width],
        weighted: vec![0.0; num_visits * width],
        dx: vec![0.0; num_visits * hidden],
        dweight: vec![0.0; num_visits],
    };
    let blocks = visits.blocks();
    let wide = split_by_blocks(&mut out.dgate, width, &blocks)
        .into_iter()
        .zip(split_by_blocks(&mut out.dup, width, &blocks))
        .zip(split_by_blocks(&mut out.weighted, width, &blocks));
    let narrow =
        split_by_blocks(&mut out.dx, hidden, &blocks).into_iter().zip(split_by_blocks(&mut out.dweight, 1, &blocks));
    let tasks: Vec<_> = blocks.iter().zip(wide.zip(narrow)).collect();
    tasks.into_par_iter().for_each(|((expert, places), (((dgate, dup), weighted), (dx, dweight)))| {
        let rows = places.len();
        let dy = visits.gather(values(grad), hidden, places.clone());
        let mut z = vec![0.0; rows * width];
        let of_expert = |stack| WeightRows::from_tensor(stack).slice(expert * width * hidden, width * hidden);
        matmul_nn(Mat::new(&dy, rows, hidden), of_expert(down), MatMut::new(&mut z, rows, width), false, Threads::One);
        vectorized!({
            for (row, place) in places.clone().enumerate() {
                let weight = values(weights)[visits.order[place]];
                let at = row * width..(row + 1) * width;
                let (gate, up) =
                    (&values(gate_out)[place * width..][..width], &values(up_out)[place * width..][..width]);
                let (z, weighted) = (&z[at.clone()], &mut weighted[at.clone()]);
                let (dgate, dup) = (&mut dgate[at.clone()], &mut dup[at]);
                for i in 0..width {
                    let (silu, slope) = silu_derivative(gate[i]);
                    weighted[i] = silu * up[i];
                    dgate[i] = weight * z[i] * up[i] * slope;
                    dup[i] = weight * z[i] * silu;
                }
                dweight[row] = sum_by(width, |i| z[i] * weighted[i]);
                weighted.iter_mut().for_each(|h| *h *= weight);
            }
        });
        for (inner, stack, accumulate) in [(dgate, gate, false), (dup, up, true)] {
            let (inner, dx) = (Mat::new(inner, rows, width), MatMut::new(&mut *dx, rows, hidden));
            matmul_nn(inner, of_expert(stack), dx, accumulate, Threads::One);
        }
    });
    out
}

/// `[dgate, dup, ddown]` of matrices that products read in `dtype`, each stacked over experts. One task per matrix and expert.
fn matrix_gradients(
    visits: &Visits,
    grad: &FlexTensor,
    x: &FlexTensor,
    per_visit: &VisitGradients,
    num_experts: usize,
    dtype: DType,
) -> [Vec<f32>; 3] {
    let hidden = x.shape()[1];
    let width = per_visit.dgate.len() / visits.order.len().max(1);
    let size = width * hidden;
    let mut stacks = [(); 3].map(|()| vec![0.0; num_experts * size]);
    let tasks: Vec<_> = stacks
        .iter_mut()
        .enumerate()
        .flat_map(|(which, stack)| {
            stack.chunks_exact_mut(size).enumerate().map(move |(expert, out)| (which, expert, out))
        })
        .collect();
    tasks.into_par_iter().for_each(|(which, expert, out)| {
        let places = visits.range_of(expert);
        let rows = places.len();
        let tokens = visits.gather(values(if which == 2 { grad } else { x }), hidden, places.clone());
        let tokens = Mat::new(&tokens, rows, hidden);
        let inner = [&per_visit.dgate, &per_visit.dup, &per_visit.weighted][which];
        let inner = Mat::new(&inner[places.start * width..places.end * width], rows, width);
        if which == 2 {
            matmul_tn(tokens, inner, MatMut::new(out, hidden, width), dtype, false, Threads::One);
        } else {
            matmul_tn(inner, tokens, MatMut::new(out, width, hidden), dtype, false, Threads::One);
        }
    });
    stacks
}
