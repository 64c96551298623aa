//! A random order that needs no memory.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::weights::split_mix;

/// Rounds of the network. Four make it as good as random (Luby and Rackoff, 1988); small domains need more.
const NUM_ROUNDS: usize = 8;

/// The smallest half of the network in bits: of fewer, the round functions are too few.
const MIN_HALF_BITS: u32 = 4;

/// A pseudo-random permutation of `0..len` for a seed and an epoch, computed element by element.
///
/// A Feistel network with keyed hashes as round functions permutes `0..4^h`, for the smallest such power not below `len` (or
/// 256). Results outside of `0..len` are fed back until one is inside (cycle walking; Black and Rogaway, 2002, *Ciphers with
/// Arbitrary Finite Domains*, §3), which takes less than four rounds on average from 64 elements on. So an element takes
/// constant time and memory, whatever the length.
///
/// ```
/// use deepwide::data::Permutation;
///
/// let order = Permutation::new(10_000_000_000, 1, 0);
/// assert_ne!(order.at(0), order.at(1));
/// assert_eq!(order.at(7), Permutation::new(10_000_000_000, 1, 0).at(7));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permutation {
    len: u64,
    half_bits: u32,
    keys: [u64; NUM_ROUNDS],
}

impl Permutation {
    /// The permutation of `0..len` for an epoch.
    ///
    /// # Panics
    /// If `len` is 0.
    pub fn new(len: u64, seed: u64, epoch: u64) -> Self {
        assert!(len > 0, "a permutation of nothing");
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&epoch.to_le_bytes());
        // Apart from the other streams of this seed and epoch.
        key[16..27].copy_from_slice(b"permutation");
        let mut rng = ChaCha8Rng::from_seed(key);
        let bits = u64::BITS - (len - 1).leading_zeros();
        Self { len, half_bits: bits.div_ceil(2).max(MIN_HALF_BITS), keys: std::array::from_fn(|_| rng.next_u64()) }
    }

    /// The element at `index`.
    ///
    /// # Panics
    /// If `index` is not below the length.
    pub fn at(&self, index: u64) -> u64 {
        assert!(index < self.len, "element {index} of {}", self.len);
        let mut element = self.network(index);
        while element >= self.len {
            element = self.network(element);
        }
        element
    }

    /// Number of elements, never 0.
    #[expect(clippy::len_without_is_empty, reason = "there is always an element")]
    pub fn len(&self) -> u64 {
        self.len
    }

    fn network(&self, element: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (element >> self.half_bits, element & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (split_mix(right ^ key) & mask));
        }
        left << self.half_bits | right
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn all(len: u64, seed: u64, epoch: u64) -> Vec<u64> {
        let order = Permutation::new(len, seed, epoch);
        (0..len).map(|index| order.at(index)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn each_element_occurs_once(len in 1_u64..2000, seed: u64, epoch: u64) {
            let mut order = all(len, seed, epoch);
            order.sort_unstable();
            prop_assert_eq!(order, (0..len).collect::<Vec<_>>());
        }

        #[test]
        fn elements_of_any_length_are_inside_and_differ(len in 1_u64.., seed: u64, first: u64) {
            let order = Permutation::new(len, seed, 0);
            let count = len.min(100);
            let start = first % (len - count + 1);
            let found: HashSet<u64> = (start..start + count).map(|index| order.at(index)).collect();
            prop_assert_eq!(found.len() as u64, count);
            prop_assert!(found.iter().all(|element| *element < len));
        }
    }

    #[test]
    fn the_order_depends_on_seed_and_epoch_alone() {
        let order = all(100, 1, 0);
        assert_eq!(order, all(100, 1, 0));
        assert_ne!(order, all(100, 1, 1));
        assert_ne!(order, all(100, 2, 0));
        // Written into checkpoints by its effect: it must never move.
        assert_eq!(all(10, 1, 0), [2, 8, 3, 7, 0, 5, 4, 1, 9, 6]);
    }

    #[test]
    fn orders_of_three_elements_are_equally_likely() {
        let mut counts = std::collections::HashMap::new();
        for epoch in 0..6000 {
            *counts.entry(all(3, 0, epoch)).or_insert(0_i32) += 1;
        }
        assert_eq!(counts.len(), 6);
        // Five standard deviations of a count of mean 1000.
        assert!(counts.values().all(|count| (count - 1000).abs() < 5 * 29), "{counts:?}");
    }

    #[test]
    fn an_element_is_at_every_place_equally_often() {
        let len = 300;
        let mut counts = vec![0_i32; (len * len) as usize];
        for epoch in 0..3000 {
            for (index, element) in all(len, 7, epoch).into_iter().enumerate() {
                counts[index * len as usize + element as usize] += 1;
            }
        }
        // The sum has 299² degrees of freedom: mean 89,401, standard deviation 423.
        let chi_squared: f64 = counts.iter().map(|count| f64::from(count - 10).powi(2) / 10.0).sum();
        assert!((chi_squared - 89_401.0).abs() < 5.0 * 423.0, "{chi_squared}");
    }

    #[test]
    fn neighbours_end_up_anywhere() {
        let len = 100_000;
        let order = all(len, 3, 0);
        let near = order.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 1000).count();
        // A share of 1 - (1 - 1 %)² is near by chance: 1,990 with a standard deviation of 44.
        assert!((near as f64 - 1990.0).abs() < 5.0 * 44.0, "{near}");
    }
}
