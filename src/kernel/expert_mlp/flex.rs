//! Experts on the CPU: visits sorted by expert, one GEMM a matrix and block of visits.

use std::ops::Range;

use burn::backend::flex::FlexTensor;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Flex, TensorMetadata, backend_extension};
use rayon::prelude::*;

use crate::kernel::cpu::{
    CHUNK, Matrix, Scratch, Threads, WeightRows, dense, for_each_chunk, gated, indices, matmul_nt, products, silu,
    tensor, values, vectorized,
};
use crate::kernel::flop_counter;

/// Visits of one expert that one task multiplies.
const BLOCK: usize = 256;
/// Visits of an expert up to which its time is that of reading its matrices.
const FEW_VISITS: usize = 12;
/// Products of an expert's visits with one matrix, for each thread, that are worth a wait at the end.
const WORTH_A_WAIT: usize = 1 << 21;

#[backend_extension(Flex, Autodiff)]
pub trait ExpertMlp: Backend {
    fn expert_mlp_forward(
        x: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        experts: IntTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        down: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

/// The visits of tokens to experts, sorted by expert; a visit is `token · k + j`.
#[derive(Debug, Clone)]
pub struct Visits {
    /// Experts per token.
    pub k: usize,
    /// Visits in the order in which they are multiplied.
    pub order: Vec<usize>,
    /// Where each visit stands in `order`.
    pub place: Vec<usize>,
    /// `order[starts[e]..starts[e + 1]]` visit expert `e`.
    pub starts: Vec<usize>,
}

impl Visits {
    /// Counting sort; visits of one expert stay in the order of tokens.
    pub fn sort(experts: &FlexTensor, num_experts: usize) -> Self {
        let k = experts.shape()[1];
        let chosen = indices(experts);
        let mut starts = vec![0; num_experts + 1];
        for &expert in &chosen {
            assert!(expert < num_experts, "expert_mlp: expert {expert} of {num_experts}");
            starts[expert + 1] += 1;
        }
        for expert in 0..num_experts {
            starts[expert + 1] += starts[expert];
        }
        let mut next = starts.clone();
        let place: Vec<usize> = chosen
            .into_iter()
            .map(|expert| {
                next[expert] += 1;
                next[expert] - 1
            })
            .collect();
        let mut order = vec![0; place.len()];
        place.iter().enumerate().for_each(|(visit, &place)| order[place] = visit);
        Self { k, order, place, starts }
    }

    /// Places of the visits to one expert.
    pub fn of(&self, expert: usize) -> Range<usize> {
        self.starts[expert]..self.starts[expert + 1]
    }

    /// Blocks of visits that share an expert, in order.
    pub fn blocks(&self) -> Vec<(usize, Range<usize>)> {
        let experts = 0..self.starts.len() - 1;
        experts
            .flat_map(|expert| {
                let Range { start, end } = self.of(expert);
                (start..end).step_by(BLOCK).map(move |from| (expert, from..(from + BLOCK).min(end)))
            })
            .collect()
    }

    /// Whether all threads had better work on one matrix after the other than each on experts of its own: if even the busiest
    /// expert has so few visits that its matrices are waited for, or has so many that the other threads would wait for its.
    pub fn share_matrices(&self, [width, hidden]: [usize; 2]) -> bool {
        let most = self.starts.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
        let products = most.saturating_mul(width).saturating_mul(hidden);
        most <= FEW_VISITS || products / Threads::Pool.count() >= WORTH_A_WAIT
    }

    /// Rows of `x` in the order of the visits at `places`.
    pub fn gather(&self, x: &[f32], width: usize, places: Range<usize>) -> Scratch {
        let mut rows = Scratch::new(places.len() * width);
        for (row, visit) in rows.chunks_exact_mut(width).zip(&self.order[places]) {
            let token = visit / self.k;
            row.copy_from_slice(&x[token * width..(token + 1) * width]);
        }
        rows
    }

    /// `out[token] = Σ_j scale(visit) · rows[place of visit]`, in the order of `j`.
    pub fn scatter(&self, rows: &[f32], width: usize, scale: impl Fn(usize) -> f32 + Sync) -> Vec<f32> {
        let mut out = vec![0.0; self.order.len() / self.k * width];
        let one = |(token, out): (usize, &mut [f32])| {
            vectorized!({
                for visit in token * self.k..(token + 1) * self.k {
                    let (scale, start) = (scale(visit), self.place[visit] * width);
                    let row = &rows[start..start + width];
                    out.iter_mut().zip(row).for_each(|(sum, term)| *sum = term.mul_add(scale, *sum));
                }
            });
        };
        if out.len() <= CHUNK {
            out.chunks_exact_mut(width).enumerate().for_each(one);
        } else {
            out.par_chunks_exact_mut(width).enumerate().with_min_len(32).for_each(one);
        }
        out
    }
}

/// Cuts `data` into one piece a block, `width` numbers a visit.
pub fn pieces<'a>(mut data: &'a mut [f32], width: usize, blocks: &[(usize, Range<usize>)]) -> Vec<&'a mut [f32]> {
    let cut = |(_, places): &(usize, Range<usize>)| {
        let (piece, rest) = std::mem::take(&mut data).split_at_mut(places.len() * width);
        data = rest;
        piece
    };
    blocks.iter().map(cut).collect()
}

/// What the forward pass leaves for the backward: `gate(x)` and `up(x)` of every visit, and the sorted outputs.
pub struct Forward {
    /// `[num_visits, intermediate_size]`.
    pub gate: Vec<f32>,
    /// `[num_visits, intermediate_size]`.
    pub up: Vec<f32>,
    /// `[num_visits, hidden_size]`, not yet weighted.
    pub y: Vec<f32>,
}

/// A block of visits with its pieces of [`Forward`]'s arrays.
type Task<'a> = (((&'a (usize, Range<usize>), &'a mut [f32]), &'a mut [f32]), &'a mut [f32]);

/// Runs every visit through its expert.
pub fn forward(visits: &Visits, x: &FlexTensor, [gate, up, down]: [&FlexTensor; 3]) -> Forward {
    let (width, hidden) = (gate.shape()[1], gate.shape()[2]);
    let num_visits = visits.order.len();
    flop_counter::add(3 * num_visits * width * hidden);
    let mut out = Forward {
        gate: vec![0.0; num_visits * width],
        up: vec![0.0; num_visits * width],
        y: vec![0.0; num_visits * hidden],
    };
    let blocks = visits.blocks();
    let tasks: Vec<_> = blocks
        .iter()
        .zip(pieces(&mut out.gate, width, &blocks))
        .zip(pieces(&mut out.up, width, &blocks))
        .zip(pieces(&mut out.y, hidden, &blocks))
        .collect();
    let run = |threads: Threads| {
        move |((((expert, places), gate_out), up_out), y): Task<'_>| {
            let product = |x: &[f32], stack: &FlexTensor, out: &mut [f32], k: usize| {
                let matrix = WeightRows::of(stack).slice(expert * width * hidden, width * hidden);
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
    if visits.share_matrices([width, hidden]) {
        tasks.into_iter().for_each(run(Threads::Pool));
    } else {
        tasks.into_par_iter().for_each(run(Threads::One));
    }
    out
}

/// Runs every visit through its expert, given by its three matrices, and keeps just the outputs: in the order of tokens,
/// the terms of a sum in the order of `j`.
pub fn infer<'a>(
    visits: &Visits,
    x: &[f32],
    weights: &[f32],
    [width, hidden]: [usize; 2],
    expert: impl Fn(usize) -> [Matrix<'a>; 3] + Sync,
) -> Vec<f32> {
    let num_visits = visits.order.len();
    flop_counter::add(3 * num_visits * width * hidden);
    let mut y = vec![0.0; num_visits * hidden];
    let blocks = visits.blocks();
    let tasks: Vec<_> = blocks.iter().zip(pieces(&mut y, hidden, &blocks)).collect();
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
    if visits.share_matrices([width, hidden]) {
        tasks.into_iter().for_each(run(Threads::Pool));
    } else {
        tasks.into_par_iter().for_each(run(Threads::One));
    }
    visits.scatter(&y, hidden, |visit| weights[visit])
}

impl ExpertMlp for Flex {
    fn expert_mlp_forward(
        x: FlexTensor,
        weights: FlexTensor,
        experts: FlexTensor,
        gate: FlexTensor,
        up: FlexTensor,
        down: FlexTensor,
    ) -> FlexTensor {
        let (x, weights) = (dense(x), dense(weights));
        let [gate, up, down] = [gate, up, down].map(|w| w.to_contiguous());
        let visits = Visits::sort(&experts, gate.shape()[0]);
        let size = gate.shape()[1] * gate.shape()[2];
        let expert =
            |index| [&gate, &up, &down].map(|stack| Matrix::Rows(WeightRows::of(stack).slice(index * size, size)));
        let dims = [gate.shape()[1], gate.shape()[2]];
        tensor(infer(&visits, values(&x), values(&weights), dims, expert), x.shape())
    }
}
