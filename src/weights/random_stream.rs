//! Random numbers as a function of the seed and their purpose, independent of earlier draws.
//!
//! Each [`RandomStream`] has its own generator, keyed by its fields, and each block of numbers its own stream of that
//! generator. A weight is therefore the same in any order of reading and on any number of threads.

use rand::RngExt;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::StandardNormal;
use rayon::prelude::*;
use serde::Serialize;

use crate::weights::{LayerTensor, Projection, TensorId};

/// Numbers per stream, enough to amortize the set-up of a generator.
const BLOCK: usize = 1 << 14;

/// The random numbers for one purpose in one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct RandomStream {
    /// The seed of the plan.
    pub seed: u64,
    /// The layer.
    pub layer: usize,
    /// Their purpose in the layer.
    pub purpose: Purpose,
}

/// The purpose of random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Purpose {
    /// The rows of the router.
    Router,
    /// The choice of the re-drawn intermediate dimensions of the expert with this index.
    Dropped(usize),
    /// The values of a matrix of the expert with this index.
    Values(usize, Projection),
    /// The factor `A` of the update of this matrix; its layer is that of the stream, or 0.
    LoraA(TensorId),
}

impl RandomStream {
    /// Replaces each value `v` by `f(v, z)`, with `z` independent `N(0, 1)`, from index `first` on. The result does not
    /// depend on how the values are divided among calls.
    pub(crate) fn map_normal(&self, first: usize, values: &mut [f32], f: impl Fn(f32, f64) -> f32 + Sync) {
        let (head, rest) = values.split_at_mut(values.len().min(first.next_multiple_of(BLOCK) - first));
        let fill = |first: usize, values: &mut [f32]| {
            let mut rng = self.generator((first / BLOCK) as u64);
            for _ in 0..first % BLOCK {
                let _skipped: f64 = rng.sample(StandardNormal);
            }
            values.iter_mut().for_each(|value| *value = f(*value, rng.sample(StandardNormal)));
        };
        if !head.is_empty() {
            fill(first, head);
        }
        let first = first + head.len();
        rest.par_chunks_mut(BLOCK).enumerate().for_each(|(block, values)| fill(first + block * BLOCK, values));
    }

    /// Sets each value to `f(u)`, with `u` independent and uniform on `[0, 1)`.
    pub(crate) fn map_uniform(&self, values: &mut [f32], f: impl Fn(f64) -> f32 + Sync) {
        values.par_chunks_mut(BLOCK).enumerate().for_each(|(block, values)| {
            let mut rng = self.generator(block as u64);
            values.iter_mut().for_each(|value| *value = f(rng.random()));
        });
    }

    /// A uniformly random subset of `0..length` of `count` numbers, in ascending order.
    pub(crate) fn choose(&self, length: usize, count: usize) -> Vec<usize> {
        let mut chosen = index::sample(&mut self.generator(0), length, count).into_vec();
        chosen.sort_unstable();
        chosen
    }

    /// `rows` orthonormal vectors of `columns` dimensions, uniformly distributed.
    ///
    /// Gaussian vectors are orthonormalized by two passes of Gram–Schmidt, so that rounding errors stay negligible.
    pub(crate) fn orthonormal_rows(&self, rows: usize, columns: usize) -> Vec<Vec<f64>> {
        assert!(rows <= columns, "{rows} orthonormal rows of {columns} dimensions");
        let mut rng = self.generator(0);
        let mut basis: Vec<Vec<f64>> = Vec::with_capacity(rows);
        for _ in 0..rows {
            let mut row: Vec<f64> = (0..columns).map(|_| rng.sample(StandardNormal)).collect();
            for other in basis.iter().chain(&basis) {
                let overlap = dot(&row, other);
                row.iter_mut().zip(other).for_each(|(x, y)| *x -= overlap * y);
            }
            let norm = dot(&row, &row).sqrt();
            row.iter_mut().for_each(|x| *x /= norm);
            basis.push(row);
        }
        basis
    }

    fn generator(&self, stream: u64) -> ChaCha8Rng {
        let (purpose, expert) = match self.purpose {
            Purpose::Router => (0, 0),
            Purpose::Dropped(expert) => (1, expert),
            Purpose::Values(expert, Projection::Gate) => (2, expert),
            Purpose::Values(expert, Projection::Up) => (3, expert),
            Purpose::Values(expert, Projection::Down) => (4, expert),
            Purpose::LoraA(TensorId::Layer(_, tensor)) => match tensor {
                LayerTensor::QProj => (5, 0),
                LayerTensor::KProj => (6, 0),
                LayerTensor::VProj => (7, 0),
                LayerTensor::OProj => (8, 0),
                LayerTensor::Mlp(projection) => (9 + projection as u64, 0),
                LayerTensor::Router => (12, 0),
                LayerTensor::Expert(expert, projection) => (13 + projection as u64, expert),
                LayerTensor::InputLayernorm => (16, 0),
                LayerTensor::PostAttentionLayernorm => (17, 0),
            },
            Purpose::LoraA(TensorId::LmHead) => (18, 0),
            Purpose::LoraA(TensorId::EmbedTokens) => (19, 0),
            Purpose::LoraA(TensorId::Norm) => (20, 0),
        };
        let mut key = [0; 32];
        for (bytes, word) in key.chunks_exact_mut(8).zip([self.seed, self.layer as u64, expert as u64, purpose]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(stream);
        rng
    }
}

/// The finalizer of SplitMix64 (Steele et al., 2014): every bit of the result depends on every bit of `bits`.
pub(crate) fn split_mix(mut bits: u64) -> u64 {
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const ROUTER: RandomStream = RandomStream { seed: 7, layer: 0, purpose: Purpose::Router };

    fn normals(draws: RandomStream, count: usize) -> Vec<f32> {
        let mut values = vec![0.0; count];
        draws.map_normal(0, &mut values, |_, z| z as f32);
        values
    }

    #[test]
    fn every_purpose_has_numbers_of_its_own() {
        let purposes = (0..3).flat_map(|expert| {
            let values = Projection::ALL.map(|projection| Purpose::Values(expert, projection));
            [Purpose::Router, Purpose::Dropped(expert)].into_iter().chain(values)
        });
        let all: HashSet<RandomStream> = purposes
            .flat_map(|purpose| {
                (0..3).flat_map(move |seed| (0..3).map(move |layer| RandomStream { seed, layer, purpose }))
            })
            .collect();
        let drawn: HashSet<Vec<u32>> =
            all.iter().map(|&draws| normals(draws, 4).iter().map(|z| z.to_bits()).collect()).collect();
        assert_eq!(all.len(), 9 * (1 + 3 * 4));
        assert_eq!(drawn.len(), all.len());
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let drawn_on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| normals(ROUTER, 5 * BLOCK + 3))
        };
        let alone = drawn_on(1);
        assert_eq!(drawn_on(4), alone);
        assert_ne!(alone[..BLOCK], alone[BLOCK..2 * BLOCK]);
    }

    #[test]
    fn numbers_are_the_same_however_they_are_divided() {
        let whole = normals(ROUTER, 3 * BLOCK + 7);
        let mut parts = vec![0.0; whole.len()];
        let mut first = 0;
        for length in [5, 0, BLOCK - 5, 1, 2 * BLOCK, 6] {
            ROUTER.map_normal(first, &mut parts[first..first + length], |_, z| z as f32);
            first += length;
        }
        assert_eq!((first, parts), (whole.len(), whole));
    }

    #[test]
    fn normal_numbers_have_the_moments_of_a_standard_normal() {
        let count = 40 * BLOCK;
        let values = normals(ROUTER, count);
        let moment = |p: i32| values.iter().map(|&z| f64::from(z).powi(p)).sum::<f64>() / count as f64;
        let deviations = [moment(1) / 1.0, (moment(2) - 1.0) / 2f64.sqrt(), (moment(4) - 3.0) / 96f64.sqrt()];
        for deviation in deviations {
            assert!(deviation.abs() * (count as f64).sqrt() < 5.0, "{deviations:?}");
        }
    }

    #[test]
    fn uniform_numbers_have_the_moments_of_the_unit_interval() {
        let count = 40 * BLOCK;
        let mut values = vec![0.0; count];
        ROUTER.map_uniform(&mut values, |u| u as f32);
        let moment = |p: i32| values.iter().map(|&u| f64::from(u).powi(p)).sum::<f64>() / count as f64;
        let deviations = [(moment(1) - 1.0 / 2.0) * 12f64.sqrt(), (moment(2) - 1.0 / 3.0) * (45f64 / 4.0).sqrt()];
        for deviation in deviations {
            assert!(deviation.abs() * (count as f64).sqrt() < 5.0, "{deviations:?}");
        }
        assert_ne!(values[..BLOCK], values[BLOCK..2 * BLOCK]);
    }

    #[test]
    fn every_number_is_chosen_about_as_often() {
        let (length, count, tries) = (10, 4, 4000);
        let mut chosen = [0usize; 10];
        for layer in 0..tries {
            let indices = RandomStream { layer, purpose: Purpose::Dropped(0), ..ROUTER }.choose(length, count);
            assert!(indices.len() == count && indices.is_sorted_by(|a, b| a < b), "{indices:?}");
            indices.iter().for_each(|&i| chosen[i] += 1);
        }
        let p = count as f64 / length as f64;
        let sigma = (tries as f64 * p * (1.0 - p)).sqrt();
        for times in chosen {
            assert!((times as f64 - tries as f64 * p).abs() < 5.0 * sigma, "{chosen:?}");
        }
    }

    #[test]
    fn orthonormal_rows_are_orthonormal_even_when_they_fill_the_space() {
        let sizes = [(1, 1), (3, 5)].into_iter().chain(std::iter::repeat_n((32, 32), 100));
        for (layer, (rows, columns)) in sizes.enumerate() {
            let basis = RandomStream { layer, ..ROUTER }.orthonormal_rows(rows, columns);
            for (i, x) in basis.iter().enumerate() {
                for (j, y) in basis.iter().enumerate() {
                    let expected = if i == j { 1.0 } else { 0.0 };
                    let error = (dot(x, y) - expected).abs();
                    assert!(error < 32.0 * f64::EPSILON, "{rows}×{columns}: rows {i} and {j} miss by {error}");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "3 orthonormal rows of 2 dimensions")]
    fn there_are_no_more_orthonormal_rows_than_dimensions() {
        ROUTER.orthonormal_rows(3, 2);
    }
}
