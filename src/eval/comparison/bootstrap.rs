//! The paired bootstrap.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::Serialize;

/// Resamples of a bootstrap.
const NUM_RESAMPLES: usize = 10_000;
const SEED: u64 = 1234;
/// Share of the resamples inside an interval.
const CONFIDENCE: f64 = 0.95;
/// `z` of 97.5 % and of 80 %: a two-sided test at 5 % that finds a difference in four of five samples.
const Z_OF_TEST: f64 = 1.959_963_985;
const Z_OF_POWER: f64 = 0.841_621_234;

/// A mean difference, and how far chance moves it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// The mean difference `B − A`.
    pub difference: f64,
    /// Its standard error.
    pub stderr: f64,
    /// Lower end of the interval of 95 %.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// The smallest true difference that a sample of this size finds in four of five cases, in a two-sided test at 5 %:
    /// `(z₀.₉₇₅ + z₀.₈)·stderr`; `None` if all differences are equal, which says nothing of chance.
    pub detectable: Option<f64>,
}

impl Interval {
    /// Whether the interval excludes 0.
    pub fn is_significant(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

/// The mean over tasks of the mean difference of their items, with a percentile interval (Efron, 1979): items are drawn with
/// replacement within each task, the same for both models.
///
/// # Panics
/// If a task has no items.
pub fn bootstrap(tasks: &[Vec<f64>]) -> Interval {
    let combined = |mean: &mut dyn FnMut(&[f64]) -> f64| -> f64 {
        tasks.iter().map(|differences| mean(differences)).sum::<f64>() / tasks.len() as f64
    };
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut resampled = |differences: &[f64]| {
        let count = differences.len();
        (0..count).map(|_| differences[random.random_range(0..count)]).sum::<f64>() / count as f64
    };
    let mut found: Vec<f64> = (0..NUM_RESAMPLES).map(|_| combined(&mut resampled)).collect();
    found.sort_by(f64::total_cmp);
    let mean = found.iter().sum::<f64>() / found.len() as f64;
    let variance = found.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (found.len() - 1) as f64;
    let outside = ((1.0 - CONFIDENCE) / 2.0 * found.len() as f64) as usize;
    let stderr = variance.sqrt();
    Interval {
        difference: combined(&mut |differences| differences.iter().sum::<f64>() / differences.len() as f64),
        stderr,
        low: found[outside],
        high: found[found.len() - 1 - outside],
        detectable: (stderr > 0.0).then_some((Z_OF_TEST + Z_OF_POWER) * stderr),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_error_is_that_of_the_paired_differences() {
        let differences: Vec<f64> = (0..400).map(|i| [0.0, 0.0, 1.0, -1.0, 1.0][i % 5]).collect();
        let interval = bootstrap(std::slice::from_ref(&differences));
        let variance = differences.iter().map(|x| (x - 0.2f64).powi(2)).sum::<f64>() / 400.0;
        let stderr = (variance / 400.0).sqrt();
        assert!((interval.difference - 0.2).abs() < 1e-12);
        assert!((interval.stderr / stderr - 1.0).abs() < 0.03, "{} {stderr}", interval.stderr);
        assert!((interval.low - (0.2 - 1.96 * stderr)).abs() < 0.01 && interval.is_significant());
        assert!((interval.detectable.unwrap() / interval.stderr - 2.8016).abs() < 1e-3);
        let swapped = bootstrap(&[differences.iter().map(|x| -x).collect()]);
        assert_eq!((swapped.low, swapped.high), (-interval.high, -interval.low));
    }

    #[test]
    fn equal_scores_do_not_differ() {
        let interval = bootstrap(&[vec![0.0; 50]]);
        assert_eq!((interval.low, interval.high, interval.stderr, interval.detectable), (0.0, 0.0, 0.0, None));
        assert!(!interval.is_significant());
    }

    #[test]
    fn an_average_of_tasks_weighs_tasks_not_items() {
        let interval = bootstrap(&[vec![1.0; 10], vec![0.0; 990]]);
        assert_eq!(interval.difference, 0.5);
    }
}
