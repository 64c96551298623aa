//! Learning rate over the steps: a linear re-warm-up, then half a cosine.

/// `peak · (step+1)/warmup_steps` while warming up, then from `peak` down to `final_fraction · peak` along half a
/// cosine (Loshchilov & Hutter, 2017, arXiv:1608.03983, §3), reached at `num_steps`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Largest learning rate.
    pub peak: f64,
    /// Steps until the peak; grown models are warmed up again (Parmar et al., 2024, arXiv:2407.07263).
    pub warmup_steps: usize,
    /// All steps.
    pub num_steps: usize,
    /// Last learning rate over the peak.
    pub final_fraction: f64,
}

impl Schedule {
    /// The learning rate of the update after `step` others.
    pub fn learning_rate(&self, step: usize) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let rest = self.num_steps.saturating_sub(self.warmup_steps).max(1);
        let progress = ((step - self.warmup_steps) as f64 / rest as f64).min(1.0);
        let cosine = (1.0 + (std::f64::consts::PI * progress).cos()) / 2.0;
        self.peak * (self.final_fraction + (1.0 - self.final_fraction) * cosine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULE: Schedule = Schedule { peak: 2e-3, warmup_steps: 10, num_steps: 110, final_fraction: 0.1 };

    #[test]
    fn the_rate_rises_linearly_to_the_peak() {
        assert!((SCHEDULE.learning_rate(0) - 2e-4).abs() < 1e-15);
        assert_eq!(SCHEDULE.learning_rate(9), 2e-3);
        assert_eq!(SCHEDULE.learning_rate(10), 2e-3);
    }

    #[test]
    fn the_rate_falls_to_its_last_fraction_and_stays() {
        assert!((SCHEDULE.learning_rate(60) - 2e-3 * 0.55).abs() < 1e-12);
        assert!((SCHEDULE.learning_rate(110) - 2e-4).abs() < 1e-12);
        assert_eq!(SCHEDULE.learning_rate(500), SCHEDULE.learning_rate(110));
    }

    #[test]
    fn a_run_shorter_than_its_warm_up_is_warm_up_only() {
        let short = Schedule { num_steps: 4, ..SCHEDULE };
        assert!((short.learning_rate(3) - 8e-4).abs() < 1e-15);
    }
}
