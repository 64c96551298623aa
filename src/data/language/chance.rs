//! Random integers that are the same on every machine.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::vocabulary::Kind;

/// A stream of random integers, determined by three numbers.
pub(super) struct Chance(ChaCha8Rng);

impl Chance {
    /// The stream of a world, a purpose and an index.
    pub(super) fn new(seed: u64, purpose: u64, index: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&purpose.to_le_bytes());
        key[16..24].copy_from_slice(&index.to_le_bytes());
        Self(ChaCha8Rng::from_seed(key))
    }

    /// A uniform number in `0..bound` without bias (Lemire, 2019, arXiv:1805.10941, §4).
    ///
    /// Implemented here so that no library update changes the documents.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        assert!(bound > 0, "no number is below 0");
        loop {
            let product = u64::from(self.0.next_u32()) * u64::from(bound);
            let (high, low) = ((product >> 32) as u32, product as u32);
            if low >= bound || low >= bound.wrapping_neg() % bound {
                return high;
            }
        }
    }

    /// Shuffles `items` (Fisher–Yates).
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u32 + 1) as usize);
        }
    }

    /// A random map from `0..from` to `0..to` that takes every value equally often, give or take one.
    pub(super) fn assignment(&mut self, from: usize, to: usize) -> Vec<usize> {
        let mut of: Vec<usize> = (0..from).map(|index| index % to).collect();
        self.shuffle(&mut of);
        of
    }

    /// A random permutation of `0..len` that is a single cycle.
    pub(super) fn cycle(&mut self, len: usize) -> Vec<usize> {
        let order = self.assignment(len, len);
        let mut next = vec![0; len];
        for (position, &thing) in order.iter().enumerate() {
            next[thing] = order[(position + 1) % len];
        }
        next
    }

    /// The words of a kind with weights `∝ 1/rank` (Zipf), the ranks in random order.
    pub(super) fn zipf(&mut self, kind: Kind) -> Vec<(u32, u32)> {
        let ranks = self.assignment(kind.len(), kind.len());
        ranks.iter().enumerate().map(|(index, &rank)| (kind.id(index), 5040 / (rank as u32 + 1))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::language::vocabulary::TOWNS;

    #[test]
    fn every_number_below_a_bound_is_equally_likely() {
        let mut chance = Chance::new(1, 2, 3);
        let mut counts = [0_i32; 7];
        for _ in 0..70_000 {
            counts[chance.below(7) as usize] += 1;
        }
        let deviation = (70_000.0 / 7.0 * (6.0 / 7.0_f64)).sqrt();
        assert!(counts.iter().all(|&count| f64::from((count - 10_000).abs()) < 4.0 * deviation), "{counts:?}");
    }

    #[test]
    fn streams_differ_in_each_of_their_three_numbers() {
        let first = |seed, purpose, index| Chance::new(seed, purpose, index).below(u32::MAX);
        let numbers = [first(0, 0, 0), first(1, 0, 0), first(0, 1, 0), first(0, 0, 1)];
        assert!((0..4).all(|a| (0..a).all(|b| numbers[a] != numbers[b])), "{numbers:?}");
        assert_eq!(first(0, 0, 0), numbers[0]);
    }

    #[test]
    fn a_cycle_visits_everything_once() {
        let next = Chance::new(0, 0, 0).cycle(48);
        let mut seen = [false; 48];
        let mut here = 0;
        for _ in 0..48 {
            assert!(!std::mem::replace(&mut seen[here], true), "came back to {here} too early");
            here = next[here];
        }
        assert_eq!(here, 0);
    }

    #[test]
    fn an_assignment_takes_every_value_equally_often() {
        let of = Chance::new(0, 0, 0).assignment(48, 24);
        assert!((0..24).all(|answer| of.iter().filter(|&&given| given == answer).count() == 2), "{of:?}");
    }

    #[test]
    fn the_most_frequent_word_is_ten_times_as_frequent_as_the_tenth() {
        let mut weights: Vec<u32> = Chance::new(0, 0, 0).zipf(TOWNS).iter().map(|&(_, weight)| weight).collect();
        weights.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(weights[0], 10 * weights[9]);
    }
}
