//! McNemar's test of paired yes-or-no outcomes.

use serde::Serialize;

/// Items on which exactly one of two models is right (McNemar, 1947).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct McNemar {
    /// Items that only A has right.
    pub only_a: usize,
    /// Items that only B has right.
    pub only_b: usize,
    /// Probability of a split at least as uneven if both models were equally good: exact, two-sided. 1 where no item differs.
    pub p_value: f64,
}

impl McNemar {
    /// Of pairs of scores; `None` if a score is neither 0 nor 1.
    pub fn of(pairs: &[(f64, f64)]) -> Option<Self> {
        if pairs.iter().any(|(a, b)| [a, b].into_iter().any(|score| *score != 0.0 && *score != 1.0)) {
            return None;
        }
        let only_a = pairs.iter().filter(|(a, b)| a > b).count();
        let only_b = pairs.iter().filter(|(a, b)| b > a).count();
        Some(Self { only_a, only_b, p_value: two_sided(only_a.min(only_b), only_a + only_b) })
    }
}

/// `min(1, 2·P(X ≤ few))` for `X ~ Binomial(count, 1/2)`.
fn two_sided(few: usize, count: usize) -> f64 {
    // ln of C(count, k)·2^-count, from one k to the next.
    let mut ln_term = -(count as f64) * std::f64::consts::LN_2;
    let mut sum = 0.0;
    for k in 0..=few {
        sum += ln_term.exp();
        ln_term += ((count - k) as f64).ln() - ((k + 1) as f64).ln();
    }
    (2.0 * sum).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p_value(only_a: usize, only_b: usize, both: usize) -> f64 {
        let pairs = [vec![(1.0, 0.0); only_a], vec![(0.0, 1.0); only_b], vec![(1.0, 1.0); both]].concat();
        McNemar::of(&pairs).unwrap().p_value
    }

    #[test]
    fn the_p_value_is_that_of_the_exact_binomial_test() {
        // scipy.stats.binomtest(few, count, 0.5).pvalue
        for (only_a, only_b, expected) in [
            (2, 8, 0.109375),
            (0, 0, 1.0),
            (5, 5, 1.0),
            (40, 60, 0.056_887_933_640_980_84),
            (500, 600, 0.002_819_544_991_436),
        ] {
            let found = p_value(only_a, only_b, 7);
            assert!((found - expected).abs() < 1e-8, "{only_a}, {only_b}: {found}");
            assert_eq!(found, p_value(only_b, only_a, 0), "items that both have right do not count");
        }
    }

    #[test]
    fn shares_of_probability_are_no_outcomes() {
        assert_eq!(McNemar::of(&[(1.0, 0.5)]), None);
    }
}
