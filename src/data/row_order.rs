//! The order in which training visits rows, without a list of them.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Rounds of the Feistel network; from four on, it is a pseudo-random permutation (Luby & Rackoff, 1988).
const ROUNDS: usize = 6;

/// One pseudo-random permutation of the rows per epoch, as a function of the position alone: any element takes constant time
/// and memory, whatever the number of rows.
///
/// A Feistel network permutes the numbers below the next power of four; numbers beyond the last row are permuted again until
/// they fall on a row (cycle walking; Black & Rogaway, 2002).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowOrder {
    num_rows: u64,
    seed: u64,
}

impl RowOrder {
    /// The order of `num_rows` rows.
    ///
    /// # Panics
    /// If there is no row.
    pub fn new(num_rows: u64, seed: u64) -> Self {
        assert!(num_rows > 0, "an order of no rows");
        Self { num_rows, seed }
    }

    /// The row at a position, which counts from the start of the first epoch.
    pub fn row(&self, position: u64) -> u64 {
        let (epoch, mut number) = (position / self.num_rows, position % self.num_rows);
        let keys = self.keys(epoch);
        loop {
            number = self.permute(number, &keys);
            if number < self.num_rows {
                return number;
            }
        }
    }

    fn keys(&self, epoch: u64) -> [u64; ROUNDS] {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.seed.to_le_bytes());
        seed[8..16].copy_from_slice(&epoch.to_le_bytes());
        let mut rng = ChaCha8Rng::from_seed(seed);
        std::array::from_fn(|_| rng.next_u64())
    }

    fn permute(&self, number: u64, keys: &[u64; ROUNDS]) -> u64 {
        let half_bits = (64 - (self.num_rows - 1).leading_zeros()).div_ceil(2).max(1);
        let mask = (1u64 << half_bits) - 1;
        let (mut left, mut right) = (number >> half_bits, number & mask);
        for key in keys {
            (left, right) = (right, left ^ (mixed(right ^ key) & mask));
        }
        left << half_bits | right
    }
}

/// The finalizer of SplitMix64 (Steele et al., 2014).
fn mixed(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_visits_each_row_once() {
        for num_rows in [1, 2, 3, 5, 16, 17, 1000, 4097] {
            for epoch in 0..3 {
                let order = RowOrder::new(num_rows, 7);
                let mut rows: Vec<u64> = (0..num_rows).map(|at| order.row(epoch * num_rows + at)).collect();
                rows.sort_unstable();
                assert_eq!(rows, (0..num_rows).collect::<Vec<_>>(), "{num_rows} rows, epoch {epoch}");
            }
        }
    }

    #[test]
    fn epochs_and_seeds_have_orders_of_their_own() {
        let order = |seed, epoch: u64| -> Vec<u64> {
            (0..100).map(|at| RowOrder::new(100, seed).row(epoch * 100 + at)).collect()
        };
        assert_eq!(order(1, 0), order(1, 0));
        assert!(order(1, 0) != order(1, 1) && order(1, 0) != order(2, 0));
        assert!(order(1, 0) != (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn a_row_is_at_no_position_more_often_than_by_chance() {
        // Positions of row 0 among 64 over 6,400 seeds: 100 each on average, 10 of standard deviation.
        let mut counts = [0; 64];
        for seed in 0..6400 {
            let order = RowOrder::new(64, seed);
            counts[(0..64).position(|at| order.row(at) == 0).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (55..=145).contains(count)), "{counts:?}");
    }

    #[test]
    fn rows_beyond_any_memory_are_ordered() {
        let order = RowOrder::new(u64::MAX / 3, 0);
        assert!(order.row(u64::MAX / 2) < u64::MAX / 3);
    }
}
