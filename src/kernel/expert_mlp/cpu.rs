//! Experts on the CPU: one product per matrix and block of visits.

use std::ops::Range;

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};
use rayon::prelude::*;

use super::visits::{Visits, split_by_blocks};
use super::{ExpertMlp, ExpertOperand};
use crate::kernel::cpu::{
    CHUNK, Matrix, Scratch, Threads, WeightRows, dense, empty, for_each_chunk, gated, matmul_nt, products, silu,
    tensor, values, vectorized,
};

impl ExpertMlp for Flex {
    fn expert_mlp(x: FlexTensor, weights: FlexTensor, chosen: FlexTensor, experts: ExpertOperand<Self>) -> FlexTensor {
        let (x, weights) = (dense(x), dense(weights));
        let (x_values, weight_values) = (values(&x), values(&weights));
        let y = match experts {
            ExpertOperand::Stacked { gate, up, down } => {
                let stacks = [gate, up, down].map(|stack| stack.to_contiguous());
                let (num_experts, dims) = (stacks[0].shape()[0], [stacks[0].shape()[1], stacks[0].shape()[2]]);
                let size = dims[0] * dims[1];
                let matrix = |stack, index| Matrix::Rows(WeightRows::from_tensor(stack).slice(index * size, size));
                let visits = Visits::sort(&chosen, num_experts);
                infer(&visits, x_values, weight_values, dims, |index| {
                    stacks.each_ref().map(|stack| matrix(stack, index))
                })
            }
            ExpertOperand::Quantized(experts) => {
                let visits = Visits::sort(&chosen, experts.len());
                infer(&visits, x_values, weight_values, experts[0].gate.dims(), |index| {
                    experts[index].matrices().map(|weight| Matrix::Quantized(weight.panels()))
                })
            }
        };
        tensor(y, x.shape())
    }
}

/// Activations saved for the backward pass, one row per visit, in sorted order.
pub(super) struct Forward {
    /// `gate(x)`, `[num_visits, intermediate_size]`.
    pub gate: Vec<f32>,
    /// `up(x)`, `[num_visits, intermediate_size]`.
    pub up: Vec<f32>,
    /// Outputs before weighting, `[num_visits, hidden_size]`.
    pub y: Vec<f32>,
}

/// A block of visits and its slices of [`Forward`].
type Task<'a> = (((&'a (usize, Range<usize>), &'a mut [f32]), &'a mut [f32]), &'a mut [f32]);

/// Runs every visit through its expert, and saves the activations for the backward pass.
pub(super) fn forward(visits: &Visits, x: &FlexTensor, [gate, up, down]: [&FlexTensor; 3]) -> Forward {
    let (width, hidden) = (gate.shape()[1], gate.shape()[2]);
    let num_visits = visits.order.len();
    let mut out =
        Forward { gate: empty(num_visits * width), up: empty(num_visits * width), y: empty(num_visits * hidden) };
    let blocks = visits.blocks();
    let tasks: Vec<_> = blocks
        .iter()
        .zip(split_by_blocks(&mut out.gate, width, &blocks))
        .zip(split_by_blocks(&mut out.up, width, &blocks))
        .zip(split_by_blocks(&mut out.y, hidden, &blocks))
        .collect();
    let run = |threads: Threads| {
        move |((((expert, places), gate_out), up_out), y): Task<'_>| {
            let product = |x: &[f32], stack: &FlexTensor, out: &mut [f32], k: usize| {
                let matrix = WeightRows::from_tensor(stack).slice(expert * width * hidden, width * hidden);
                matmul_nt(x, matrix, out, k, threads);
            };
            let x = visits.gather(values(x), hidden, places.clone());
            product(&x, gate, gate_out, hidden);
            product(&x, up, up_out, hidden);
            let mut inner = Scratch::new(gate_out.len());
            let chunk = if threads == Threads::One { inner.len() } else { CHUNK };
            for_each_chunk(&mut inner, chunk, |(index, inner)| {
                let start = index * chunk;
                vectorized!({
                    for ((inner, gate), up) in inner.iter_mut().zip(&gate_out[start..]).zip(&up_out[start..]) {
                        *inner = silu(*gate) * up;
                    }
                });
            });
            product(&inner, down, y, width);
        }
    };
    if visits.parallel_within_products([width, hidden]) {
        tasks.into_iter().for_each(run(Threads::Pool));
    } else {
        tasks.into_par_iter().for_each(run(Threads::One));
    }
    out
}

/// Runs every visit through its expert, given by gate, up and down. Returns the weighted sum of each token, in the order of
/// `j`.
fn infer<'a>(
    visits: &Visits,
    x: &[f32],
    weights: &[f32],
    [width, hidden]: [usize; 2],
    expert: impl Fn(usize) -> [Matrix<'a>; 3] + Sync,
) -> Vec<f32> {
    let num_visits = visits.order.len();
    let mut y = empty(num_visits * hidden);
    let blocks = visits.blocks();
    let tasks: Vec<_> = blocks.iter().zip(split_by_blocks(&mut y, hidden, &blocks)).collect();
    let run = |threads: Threads| {
        let expert = &expert;
        move |((index, places), y): (&(usize, Range<usize>), &mut [f32])| {
            let [gate, up, down] = expert(*index);
            let x = visits.gather(x, hidden, places.clone());
            let mut inner = Scratch::new(places.len() * width);
            gated(&x, hidden, [gate, up], &mut inner, threads);
            products(&inner, width, vec![(down, y)], false, threads);
        }
    };
    if visits.parallel_within_products([width, hidden]) {
        tasks.into_iter().for_each(run(Threads::Pool));
    } else {
        tasks.into_par_iter().for_each(run(Threads::One));
    }
    visits.scatter(&y, hidden, |visit| weights[visit])
}
