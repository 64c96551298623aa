//! The order in which training visits windows.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// The order in which training visits windows: one random permutation per epoch.
///
/// It depends on the seed and the step alone, so that compared models see the same windows in the same order, and a resumed
/// run continues where it stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowOrder {
    num_windows: usize,
    seed: u64,
}

impl WindowOrder {
    /// The order of `num_windows` windows.
    ///
    /// # Panics
    /// If `num_windows` is 0.
    pub fn new(num_windows: usize, seed: u64) -> Self {
        assert!(num_windows > 0, "an order of no windows");
        Self { num_windows, seed }
    }

    /// All windows in the order of an epoch: a uniformly random permutation (Fisher–Yates).
    pub fn epoch(&self, epoch: u64) -> Vec<usize> {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        key[8..16].copy_from_slice(&epoch.to_le_bytes());
        let mut rng = ChaCha8Rng::from_seed(key);
        let mut order: Vec<usize> = (0..self.num_windows).collect();
        for last in (1..order.len()).rev() {
            order.swap(last, rng.random_range(0..=last as u64) as usize);
        }
        order
    }

    /// The `batch_size` windows of a step; steps start at 0. A batch may span epochs.
    ///
    /// Takes time proportional to the number of windows, because it draws the epoch again.
    ///
    /// # Panics
    /// If `batch_size` is 0.
    pub fn batch(&self, step: usize, batch_size: usize) -> Vec<usize> {
        assert!(batch_size > 0, "a batch of no windows");
        let mut batch = Vec::with_capacity(batch_size);
        let mut position = step * batch_size;
        while batch.len() < batch_size {
            let order = self.epoch((position / self.num_windows) as u64);
            let rest = order[position % self.num_windows..].iter().take(batch_size - batch.len());
            position += rest.len();
            batch.extend(rest);
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn an_epoch_is_a_permutation(num_windows in 1_usize..200, seed: u64, epoch: u64) {
            let mut order = WindowOrder::new(num_windows, seed).epoch(epoch);
            order.sort_unstable();
            prop_assert_eq!(order, (0..num_windows).collect::<Vec<_>>());
        }

        #[test]
        fn batches_are_cut_from_one_epoch_after_the_other(
            num_windows in 1_usize..20, seed: u64, batch_size in 1_usize..30, num_steps in 1_usize..10,
        ) {
            let order = WindowOrder::new(num_windows, seed);
            let backwards: Vec<Vec<usize>> = (0..num_steps).rev().map(|step| order.batch(step, batch_size)).collect();
            let batches: Vec<usize> = backwards.into_iter().rev().flatten().collect();
            let epochs: Vec<usize> =
                (0..).flat_map(|epoch| order.epoch(epoch)).take(num_steps * batch_size).collect();
            prop_assert_eq!(batches, epochs);
        }
    }

    #[test]
    fn the_order_depends_on_seed_and_epoch() {
        let order = WindowOrder::new(100, 1);
        assert_eq!(order.epoch(0), WindowOrder::new(100, 1).epoch(0));
        assert_ne!(order.epoch(0), order.epoch(1));
        assert_ne!(order.epoch(0), WindowOrder::new(100, 2).epoch(0));
    }

    #[test]
    fn orders_of_three_windows_are_equally_likely() {
        let mut counts = std::collections::HashMap::new();
        for epoch in 0..6000 {
            *counts.entry(WindowOrder::new(3, 0).epoch(epoch)).or_insert(0_i32) += 1;
        }
        assert_eq!(counts.len(), 6);
        // Five standard deviations of a count of mean 1000.
        assert!(counts.values().all(|count| (count - 1000).abs() < 5 * 29), "{counts:?}");
    }
}
