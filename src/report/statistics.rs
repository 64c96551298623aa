//! Summaries of raw samples: quantiles for timings, means with intervals for seeds.

/// A mean over independent samples, with its uncertainty.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Mean of the samples.
    pub mean: f64,
    /// Half the width of the two-sided 95 % confidence interval: `t · s / √n` (Student's t, `n - 1` degrees of freedom).
    /// `None` for a single sample.
    pub half_width: Option<f64>,
    /// Number of samples.
    pub n: usize,
}

impl Estimate {
    /// The estimate from these samples; `None` without samples.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mean = mean(samples)?;
        let n = samples.len();
        let half_width = variance(samples).map(|variance| t_quantile_95(n - 1) * (variance / n as f64).sqrt());
        Some(Self { mean, half_width, n })
    }
}

/// Arithmetic mean; `None` without samples.
pub fn mean(samples: &[f64]) -> Option<f64> {
    (!samples.is_empty()).then(|| samples.iter().sum::<f64>() / samples.len() as f64)
}

/// Sample variance, `Σ(x − x̄)² / (n − 1)`; `None` for fewer than two samples.
pub fn variance(samples: &[f64]) -> Option<f64> {
    let mean = mean(samples).filter(|_| samples.len() > 1)?;
    Some(samples.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (samples.len() - 1) as f64)
}

/// The middle sample, or the mean of the two middle ones.
///
/// # Panics
/// If there are no samples.
pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// The `q`-quantile with linear interpolation between order statistics: the value at `q · (n - 1)` of the sorted samples.
///
/// # Panics
/// If there are no samples or `q` is not in `[0, 1]`.
pub fn quantile(samples: &[f64], q: f64) -> f64 {
    assert!(!samples.is_empty(), "a quantile needs at least one sample");
    assert!((0.0..=1.0).contains(&q), "quantile {q} is not in [0, 1]");
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let position = q * (sorted.len() - 1) as f64;
    let below = sorted[position.floor() as usize];
    let above = sorted[position.ceil() as usize];
    below + (above - below) * position.fract()
}

/// The 0.975-quantile of Student's t for 1 to 30 degrees of freedom.
const T_95: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

fn t_quantile_95(degrees_of_freedom: usize) -> f64 {
    T_95.get(degrees_of_freedom - 1).copied().unwrap_or_else(|| t_quantile_95_expanded(degrees_of_freedom as f64))
}

/// The first terms of the Cornish-Fisher expansion of Student's t around the normal quantile.
fn t_quantile_95_expanded(v: f64) -> f64 {
    let z = 1.959_964_f64;
    z + (z.powi(3) + z) / (4.0 * v) + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * v * v)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_two_middles() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[7.0]), 7.0);
    }

    #[test]
    fn quantiles_run_from_the_least_to_the_greatest_sample() {
        let samples = [5.0, 1.0, 3.0, 2.0, 4.0];
        assert_eq!([0.0, 0.25, 0.75, 1.0].map(|q| quantile(&samples, q)), [1.0, 2.0, 4.0, 5.0]);
    }

    #[test]
    #[should_panic(expected = "at least one sample")]
    fn nothing_has_no_median() {
        median(&[]);
    }

    #[test]
    fn one_sample_has_no_interval() {
        assert_eq!(Estimate::of(&[2.0]), Some(Estimate { mean: 2.0, half_width: None, n: 1 }));
        assert_eq!(Estimate::of(&[]), None);
    }

    #[test]
    fn the_interval_of_two_samples_follows_from_their_difference() {
        let estimate = Estimate::of(&[1.0, 2.0]).unwrap();
        assert_eq!(estimate.mean, 1.5);
        // s / √n is half the difference of two samples.
        assert!((estimate.half_width.unwrap() - 12.706 * 0.5).abs() < 1e-12);
    }

    #[test]
    fn the_table_of_t_meets_its_expansion_where_it_ends() {
        assert!((T_95[29] - t_quantile_95_expanded(30.0)).abs() < 1e-3);
        assert!((T_95[14] - t_quantile_95_expanded(15.0)).abs() < 5e-3);
        assert!((t_quantile_95(1_000_000) - 1.959_964).abs() < 1e-5);
        assert!(T_95.is_sorted_by(|a, b| a > b));
    }
}
