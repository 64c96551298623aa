//! Means and their standard errors.

/// A mean and its standard error, which one item alone does not have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub value: f64,
    /// `s / √n` with the sample standard deviation `s`; `None` of fewer than two items.
    pub stderr: Option<f64>,
    /// The number of items.
    pub count: usize,
}

impl Estimate {
    /// Of the values of single items.
    pub fn of(values: &[f64]) -> Self {
        let count = values.len();
        let value = values.iter().sum::<f64>() / count as f64;
        let squares: f64 = values.iter().map(|x| (x - value).powi(2)).sum();
        let stderr = (count > 1).then(|| (squares / (count - 1) as f64).sqrt() / (count as f64).sqrt());
        Self { value, stderr, count }
    }

    /// Of groups of items, weighted by their sizes; with the pooled variance `Σ (n−1)·se²·n / (Σ n − k)` of `k` groups.
    /// `None` without groups.
    pub fn pooled(groups: &[Self]) -> Option<Self> {
        let count: usize = groups.iter().map(|group| group.count).sum();
        if count == 0 {
            return None;
        }
        let value = groups.iter().map(|group| group.value * group.count as f64).sum::<f64>() / count as f64;
        let terms: Option<Vec<f64>> = groups
            .iter()
            .map(|group| Some((group.count - 1) as f64 * group.stderr?.powi(2) * group.count as f64))
            .collect();
        let variance = terms.map(|terms| terms.iter().sum::<f64>() / (count - groups.len()) as f64);
        Some(Self { value, stderr: variance.map(|variance| (variance / count as f64).sqrt()), count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_error_divides_by_one_item_less() {
        let estimate = Estimate::of(&[1.0, 0.0, 1.0, 1.0]);
        assert_eq!((estimate.value, estimate.count), (0.75, 4));
        assert!((estimate.stderr.unwrap() - 0.25).abs() < 1e-15);
        assert_eq!(Estimate::of(&[1.0]).stderr, None);
    }

    #[test]
    fn pooling_equal_groups_is_the_error_of_all_items_within_them() {
        let groups = [Estimate::of(&[1.0, 0.0]), Estimate::of(&[0.0, 1.0])];
        let pooled = Estimate::pooled(&groups).unwrap();
        assert_eq!((pooled.value, pooled.count), (0.5, 4));
        assert!((pooled.stderr.unwrap() - (0.5f64 / 4.0).sqrt()).abs() < 1e-15);
        assert_eq!(Estimate::pooled(&[]), None);
        assert_eq!(Estimate::pooled(&[groups[0], Estimate::of(&[1.0])]).unwrap().stderr, None);
    }
}
