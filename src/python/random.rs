//! CPython's `random.Random`: MT19937 (Matsumoto and Nishimura, 1998) with CPython's seeding and sampling.

use std::collections::HashSet;

const N: usize = 624;
const M: usize = 397;

/// `random.Random(seed)` of CPython 3.11 and later: the same draws for the same seed.
///
/// ```
/// use deepwide::python::Random;
///
/// // random.Random(1234).sample(range(1000), 5)
/// assert_eq!(Random::new(1234).sample(1000, 5), [989, 796, 451, 119, 7]);
/// ```
#[derive(Debug, Clone)]
pub struct Random {
    state: [u32; N],
    /// Words of the state that were used.
    used: usize,
}

impl Random {
    /// The generator that `seed` starts: `init_by_array` of the 32-bit digits of the seed, the lowest first.
    pub fn new(seed: u64) -> Self {
        let high = (seed >> 32) as u32;
        let key = if high == 0 { vec![seed as u32] } else { vec![seed as u32, high] };
        let mut state = [0u32; N];
        state[0] = 19_650_218;
        for i in 1..N {
            state[i] = scrambled(state[i - 1], 1_812_433_253).wrapping_add(i as u32);
        }
        let (mut i, mut j) = (1, 0);
        for _ in 0..N.max(key.len()) {
            state[i] = (state[i] ^ scrambled(state[i - 1], 1_664_525)).wrapping_add(key[j]).wrapping_add(j as u32);
            i = after(&mut state, i);
            j = (j + 1) % key.len();
        }
        for _ in 1..N {
            state[i] = (state[i] ^ scrambled(state[i - 1], 1_566_083_941)).wrapping_sub(i as u32);
            i = after(&mut state, i);
        }
        state[0] = 0x8000_0000;
        Self { state, used: N }
    }

    /// `sample(range(population), count)`: distinct numbers below `population`, in the order of CPython.
    ///
    /// # Panics
    /// If `count` is larger than `population`.
    pub fn sample(&mut self, population: usize, count: usize) -> Vec<usize> {
        assert!(count <= population, "a sample of {count} from {population}");
        if population <= pool_limit(count) {
            let mut pool: Vec<usize> = (0..population).collect();
            let draw = |left: usize| {
                let drawn = self.below(left);
                let value = pool[drawn];
                pool[drawn] = pool[left - 1];
                value
            };
            return (population - count + 1..=population).rev().map(draw).collect();
        }
        let mut seen = HashSet::with_capacity(count);
        std::iter::repeat_with(|| self.below(population)).filter(|drawn| seen.insert(*drawn)).take(count).collect()
    }

    /// `randrange(bound)`: as many bits as `bound` has, drawn again until they are below it.
    fn below(&mut self, bound: usize) -> usize {
        let bits = usize::BITS - bound.leading_zeros();
        assert!((1..=32).contains(&bits), "draws below {bound}");
        loop {
            let drawn = (self.next_word() >> (32 - bits)) as usize;
            if drawn < bound {
                return drawn;
            }
        }
    }

    fn next_word(&mut self) -> u32 {
        if self.used == N {
            self.twist();
        }
        let mut y = self.state[self.used];
        self.used += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ odd;
        }
        self.used = 0;
    }
}

/// `factor · (word ^ word >> 30)`.
fn scrambled(word: u32, factor: u32) -> u32 {
    (word ^ (word >> 30)).wrapping_mul(factor)
}

/// The word after `i`; behind the last, the first is set to the last and the second follows.
fn after(state: &mut [u32; N], i: usize) -> usize {
    if i + 1 < N {
        return i + 1;
    }
    state[0] = state[N - 1];
    1
}

/// The largest population that CPython samples from a list of all its members.
fn pool_limit(count: usize) -> usize {
    if count <= 5 {
        return 21;
    }
    let mut power = 1usize;
    while power < 3 * count {
        power = power.saturating_mul(4);
    }
    21usize.saturating_add(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_those_of_cpython() {
        let mut random = Random::new(1234);
        let drawn: Vec<Vec<usize>> = (0..3).map(|_| random.sample(1119, 25)).collect();
        let begins = drawn.iter().map(|sample| &sample[..3]);
        assert!(begins.eq([[902, 239, 15], [954, 140, 182], [156, 1016, 335]]));
        let mut random = Random::new(7);
        assert_eq!(random.sample(20, 6), [10, 4, 12, 1, 2, 13]);
        assert_eq!(random.sample(20, 6), [17, 3, 11, 1, 6, 0]);
        let large = (1 << 40) + 5;
        assert_eq!(Random::new(large).sample(40_398, 6), [33_055, 33_876, 17_603, 1_797, 34_796, 3_053]);
    }

    #[test]
    fn a_sample_has_no_member_twice() {
        let mut random = Random::new(3);
        for (population, count) in [(5, 5), (21, 5), (22, 5), (300, 60)] {
            let drawn: HashSet<usize> = random.sample(population, count).into_iter().collect();
            assert_eq!(drawn.len(), count);
            assert!(drawn.iter().all(|member| *member < population));
        }
    }
}
