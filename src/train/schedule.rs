//! Learning rate over the steps: a linear warm-up, then a decay.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// `peak · (step+1)/warmup_steps` while warming up, then from `peak` along `decay`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Largest learning rate.
    pub peak: f64,
    /// Steps until the peak; grown models are warmed up again (Parmar et al., 2024, arXiv:2407.07263).
    pub warmup_steps: usize,
    /// All steps.
    pub num_steps: usize,
    /// Last learning rate over the peak. A constant rate ignores it.
    pub final_fraction: f64,
    /// The way from the peak to the last learning rate.
    pub decay: Decay,
}

/// Shape of the learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// The peak, to the end.
    Constant,
    /// A straight line.
    Linear,
    /// Half a cosine (Loshchilov & Hutter, 2017, arXiv:1608.03983, §3).
    Cosine,
    /// Warm-up, stable, decay: the peak, then a straight line over the last steps (Hu et al., 2024, arXiv:2404.06395, §4).
    WarmupStableDecay {
        /// Steps of the line.
        decay_steps: usize,
    },
}

impl Schedule {
    /// The learning rate of update `step`, counted from 0.
    pub fn learning_rate(&self, step: usize) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let start = match self.decay {
            Decay::WarmupStableDecay { decay_steps } => {
                self.num_steps.saturating_sub(decay_steps).max(self.warmup_steps)
            }
            _ => self.warmup_steps,
        };
        let length = self.num_steps.saturating_sub(start).max(1);
        let progress = (step.saturating_sub(start) as f64 / length as f64).min(1.0);
        let remaining = match self.decay {
            Decay::Constant => return self.peak,
            Decay::Cosine => (1.0 + (PI * progress).cos()) / 2.0,
            Decay::Linear | Decay::WarmupStableDecay { .. } => 1.0 - progress,
        };
        self.peak * (self.final_fraction + (1.0 - self.final_fraction) * remaining)
    }
}

impl Schedule {
    /// Whether the first `num_steps` updates have the learning rates of another schedule, to the bit: then this one continues it.
    pub fn continues(&self, other: &Self, num_steps: usize) -> bool {
        num_steps <= self.num_steps
            && (0..num_steps).all(|step| self.learning_rate(step).to_bits() == other.learning_rate(step).to_bits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULE: Schedule =
        Schedule { peak: 2e-3, warmup_steps: 10, num_steps: 110, final_fraction: 0.1, decay: Decay::Cosine };

    #[test]
    fn the_rate_rises_linearly_to_the_peak() {
        assert!((SCHEDULE.learning_rate(0) - 2e-4).abs() < 1e-15);
        assert_eq!(SCHEDULE.learning_rate(9), 2e-3);
        assert_eq!(SCHEDULE.learning_rate(10), 2e-3);
    }

    #[test]
    fn the_rate_falls_to_its_last_fraction_and_stays() {
        for decay in [Decay::Cosine, Decay::Linear] {
            let schedule = Schedule { decay, ..SCHEDULE };
            assert!((schedule.learning_rate(60) - 2e-3 * 0.55).abs() < 1e-12, "{decay:?}");
            assert!((schedule.learning_rate(110) - 2e-4).abs() < 1e-12, "{decay:?}");
            assert_eq!(schedule.learning_rate(500), schedule.learning_rate(110), "{decay:?}");
        }
    }

    #[test]
    fn a_constant_rate_stays_at_the_peak() {
        let schedule = Schedule { decay: Decay::Constant, ..SCHEDULE };
        assert_eq!(schedule.learning_rate(10), schedule.learning_rate(109));
    }

    #[test]
    fn a_stable_rate_decays_over_the_last_steps_only() {
        let schedule =
            Schedule { decay: Decay::WarmupStableDecay { decay_steps: 20 }, final_fraction: 0.0, ..SCHEDULE };
        assert_eq!(schedule.learning_rate(90), 2e-3);
        assert!((schedule.learning_rate(100) - 1e-3).abs() < 1e-12);
        assert_eq!(schedule.learning_rate(110), 0.0);
        let all_decay = Schedule { decay: Decay::WarmupStableDecay { decay_steps: 500 }, ..schedule };
        assert_eq!(all_decay.learning_rate(60), Schedule { decay: Decay::Linear, ..all_decay }.learning_rate(60));
    }

    #[test]
    fn a_schedule_continues_one_with_the_same_past() {
        let longer = |schedule: Schedule| Schedule { num_steps: 200, ..schedule };
        let constant = Schedule { decay: Decay::Constant, ..SCHEDULE };
        assert!(longer(constant).continues(&constant, 110) && !constant.continues(&longer(constant), 111));
        let stable = Schedule { decay: Decay::WarmupStableDecay { decay_steps: 20 }, ..SCHEDULE };
        assert!(longer(stable).continues(&stable, 90) && !longer(stable).continues(&stable, 92));
        assert!(!longer(SCHEDULE).continues(&SCHEDULE, 50), "a cosine depends on its length");
        assert!(longer(SCHEDULE).continues(&SCHEDULE, 10), "its warm-up does not");
    }

    #[test]
    fn a_run_shorter_than_its_warm_up_is_warm_up_only() {
        let short = Schedule { num_steps: 4, ..SCHEDULE };
        assert!((short.learning_rate(3) - 8e-4).abs() < 1e-15);
    }
}
