//! The settings of `compare` where the user gives none.

use std::path::Path;

use super::plan::Budget;
use crate::config::DecoderConfig;
use crate::profile::flops::count_parameters;

/// Experts per layer of the wide arm, as in Mixtral.
pub const NUM_LOCAL_EXPERTS: usize = 8;
/// Experts per token of the wide arm, as in Mixtral.
pub const NUM_EXPERTS_PER_TOK: usize = 2;
/// Tokens decoded per timing.
pub(super) const DECODE_TOKENS: usize = 16;
/// Share of a text that is held out.
pub(super) const HELDOUT_FRACTION: f64 = 0.1;
pub(super) const WARMUP_FRACTION: f64 = 0.1;
pub(super) const WEIGHT_DECAY: f64 = 0.1;

/// Parameters above which a base is large for a quick study.
pub const LARGE_BASE: u64 = 10_000_000;

/// Settings that depend on the base, on the text, the built-in language or a file, and on whether the study is a quick one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Defaults {
    /// Training compute of each arm.
    pub budget: Budget,
    /// Runs per arm.
    pub num_seeds: u64,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Windows per update.
    pub batch_size: usize,
    /// Tokens per window.
    pub seq_length: usize,
    /// Most windows per forward and backward pass.
    pub micro_batch_size: usize,
    /// Windows that arms are scored on.
    pub heldout_windows: usize,
    /// Scores along each training run, the last included.
    pub num_evals: usize,
    /// Rounds of timings.
    pub num_rounds: usize,
}

impl Defaults {
    /// The defaults for a base and a text, `None` for the built-in language.
    pub fn new(base: &DecoderConfig, data: Option<&Path>, quick: bool) -> Self {
        let defaults = Self::of_text(data, quick);
        if quick && count_parameters(base).total > LARGE_BASE {
            // The same budget pays for more updates of short windows, and timings are of prompts as long as a window.
            return Self { batch_size: 1, micro_batch_size: 1, seq_length: 64, num_rounds: 1, ..defaults };
        }
        defaults
    }

    fn of_text(data: Option<&Path>, quick: bool) -> Self {
        let builtin = Self {
            budget: Budget::Flops(600_000_000_000),
            num_seeds: 3,
            learning_rate: 2e-3,
            batch_size: 8,
            seq_length: 128,
            micro_batch_size: 8,
            heldout_windows: 64,
            num_evals: 10,
            num_rounds: 9,
        };
        match (data, quick) {
            (None, false) => builtin,
            (None, true) => Self {
                budget: Budget::Flops(150_000_000_000),
                num_seeds: 1,
                batch_size: 4,
                micro_batch_size: 4,
                heldout_windows: 24,
                num_evals: 4,
                ..builtin
            },
            (Some(_), quick) => Self {
                budget: Budget::ControlTokens(if quick { 512 } else { 16_384 }),
                num_seeds: 1,
                learning_rate: 1e-4,
                batch_size: if quick { 1 } else { 4 },
                seq_length: 256,
                micro_batch_size: 1,
                heldout_windows: if quick { 2 } else { 16 },
                num_evals: if quick { 1 } else { 4 },
                num_rounds: 3,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_study_is_smaller() {
        for data in [None, Some(Path::new("text.txt"))] {
            let [full, quick] = [false, true].map(|quick| Defaults::new(&DecoderConfig::pico(), data, quick));
            let budgets = match (quick.budget, full.budget) {
                (Budget::Flops(quick), Budget::Flops(full)) => (quick, full),
                (Budget::ControlTokens(quick), Budget::ControlTokens(full)) => (quick, full),
                other => panic!("{other:?}"),
            };
            assert!(budgets.0 < budgets.1 && quick.num_seeds == 1, "{data:?}");
            assert!(quick.batch_size < full.batch_size && quick.heldout_windows < full.heldout_windows, "{data:?}");
            assert!(quick.num_evals < full.num_evals && quick.num_rounds == full.num_rounds, "{data:?}");
            assert_eq!((quick.seq_length, quick.learning_rate), (full.seq_length, full.learning_rate));
        }
    }

    #[test]
    fn a_quick_study_of_a_large_base_makes_more_updates_and_is_timed_in_less_time() {
        let (small, large) = (DecoderConfig::pico(), DecoderConfig::smollm2_135m());
        for data in [None, Some(Path::new("text.txt"))] {
            let [full, quick] = [false, true].map(|quick| Defaults::new(&large, data, quick));
            assert_eq!(full, Defaults::new(&small, data, false));
            let usual = Defaults::new(&small, data, true);
            assert_eq!((quick.budget, quick.num_seeds), (usual.budget, usual.num_seeds));
            assert!(quick.batch_size * quick.seq_length <= usual.batch_size * usual.seq_length / 4, "{quick:?}");
            assert!(quick.seq_length < usual.seq_length && quick.num_rounds == 1, "{quick:?}");
        }
    }
}
