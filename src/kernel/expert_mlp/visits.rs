//! The visits of tokens to experts, sorted by expert.

use std::ops::Range;

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use crate::kernel::cpu::{CHUNK, Scratch, Threads, indices, vectorized};

/// Cap on the visits per task, all to one expert.
const BLOCK: usize = 256;
/// Visits up to which an expert is memory-bound.
const MEMORY_BOUND_VISITS: usize = 12;
/// Multiply-adds per thread above which parallelizing one product pays for the barrier.
const MIN_SHARED_WORK: usize = 1 << 21;

/// The visits of tokens to experts, sorted by expert. Visit `token · k + j` is the `j`-th choice of `token`.
#[derive(Debug, Clone)]
pub struct Visits {
    /// Experts per token.
    pub k: usize,
    /// Visits, sorted by expert.
    pub order: Vec<usize>,
    /// Position of each visit in `order`.
    pub place: Vec<usize>,
    /// `order[starts[e]..starts[e + 1]]` visit expert `e`.
    pub starts: Vec<usize>,
}

impl Visits {
    /// Sorts stably by expert (counting sort).
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

    /// Range in `order` of the visits to one expert.
    pub fn range_of(&self, expert: usize) -> Range<usize> {
        self.starts[expert]..self.starts[expert + 1]
    }

    /// Blocks of at most [`BLOCK`] visits to the same expert, in order.
    pub fn blocks(&self) -> Vec<(usize, Range<usize>)> {
        let experts = 0..self.starts.len() - 1;
        experts
            .flat_map(|expert| {
                let Range { start, end } = self.range_of(expert);
                (start..end).step_by(BLOCK).map(move |from| (expert, from..(from + BLOCK).min(end)))
            })
            .collect()
    }

    /// Whether to parallelize within each product rather than across experts: if every expert is memory-bound, or one has so
    /// many visits that the other threads would wait for it.
    pub fn parallel_within_products(&self, [width, hidden]: [usize; 2]) -> bool {
        let most = self.starts.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
        let products = most.saturating_mul(width).saturating_mul(hidden);
        most <= MEMORY_BOUND_VISITS || products / Threads::Pool.count() >= MIN_SHARED_WORK
    }

    /// Gathers the rows of `x` for the visits at `places`.
    pub fn gather(&self, x: &[f32], width: usize, places: Range<usize>) -> Scratch {
        let mut rows = Scratch::new(places.len() * width);
        for (row, visit) in rows.chunks_exact_mut(width).zip(&self.order[places]) {
            let token = visit / self.k;
            row.copy_from_slice(&x[token * width..(token + 1) * width]);
        }
        rows
    }

    /// `out[token] = Σ_j scale(visit) · rows[place of visit]`, summed in the order of `j`.
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

/// Splits `data` by blocks, with `width` elements per visit.
pub fn split_by_blocks<'a>(
    mut data: &'a mut [f32],
    width: usize,
    blocks: &[(usize, Range<usize>)],
) -> Vec<&'a mut [f32]> {
    let cut = |(_, places): &(usize, Range<usize>)| {
        let (piece, rest) = std::mem::take(&mut data).split_at_mut(places.len() * width);
        data = rest;
        piece
    };
    blocks.iter().map(cut).collect()
}
