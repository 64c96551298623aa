//! Floating-point operations of the updates of a run, for `--max-flops` and for MFU.

use crate::config::DecoderConfig;
use crate::finetune::Settings;
use crate::profile::flops::{adapter_train_flops, forward_flops, train_flops};

/// Counts the operations of updates. Layers that are computed again do not count.
#[derive(Debug, Clone)]
pub(super) struct Operations {
    config: DecoderConfig,
    /// Sequences of an update.
    num_sequences: u64,
    has_adapter: bool,
    has_reference: bool,
}

impl Operations {
    pub(super) fn new(config: &DecoderConfig, settings: &Settings) -> Self {
        Self {
            config: config.clone(),
            num_sequences: (settings.sequences_of_row() * settings.batch_size) as u64,
            has_adapter: settings.lora.is_some(),
            has_reference: settings.dpo.is_some(),
        }
    }

    /// Of one update of `num_tokens`, in sequences of about one length: forward and backward.
    pub(super) fn of_update(&self, num_tokens: u64) -> f64 {
        self.of_tokens(num_tokens, if self.has_adapter { adapter_train_flops } else { train_flops })
    }

    /// Updates of `update_tokens` each that spend `budget`, rounded up, at least one. In DPO, the reference of the first
    /// `num_updates_of_data` updates is computed, too; later ones visit the same rows.
    pub(super) fn updates_within(&self, budget: f64, update_tokens: u64, num_updates_of_data: f64) -> usize {
        let update = self.of_update(update_tokens);
        let reference = if self.has_reference { self.of_tokens(update_tokens, forward_flops) } else { 0.0 };
        let once = num_updates_of_data * (update + reference);
        let num_updates = match budget <= once {
            true => budget / (update + reference),
            false => (budget - num_updates_of_data * reference) / update,
        };
        num_updates.ceil().clamp(1.0, (1u64 << 40) as f64) as usize
    }

    fn of_tokens(&self, num_tokens: u64, of_sequence: fn(&DecoderConfig, u64, u64) -> u128) -> f64 {
        let length = num_tokens.div_ceil(self.num_sequences).max(1);
        of_sequence(&self.config, 1, length) as f64 / length as f64 * num_tokens as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operations(num_sequences: u64, has_adapter: bool, has_reference: bool) -> Operations {
        Operations { config: DecoderConfig::pico(), num_sequences, has_adapter, has_reference }
    }

    #[test]
    fn a_pair_is_two_sequences() {
        let config = DecoderConfig::pico();
        let update = operations(2 * 3, false, true).of_update(6 * 100);
        assert!((update / train_flops(&config, 6, 100) as f64 - 1.0).abs() < 1e-12);
        assert!(update < train_flops(&config, 3, 200) as f64);
    }

    #[test]
    fn a_budget_buys_more_updates_of_an_adapter() {
        let budget = 299.5 * train_flops(&DecoderConfig::pico(), 4, 100) as f64;
        let updates = |has_adapter| operations(4, has_adapter, false).updates_within(budget, 400, 10.0);
        assert_eq!(updates(false), 300);
        assert!((400..=450).contains(&updates(true)), "{}", updates(true));
    }

    #[test]
    fn the_reference_is_computed_once_for_each_pair() {
        // Forward is a third of forward and backward, so that an update with its reference costs 4/3.
        let config = DecoderConfig::pico();
        let budget = 399.5 * train_flops(&config, 4, 100) as f64;
        let updates = |num_updates_of_data| operations(4, false, true).updates_within(budget, 400, num_updates_of_data);
        assert_eq!([updates(1e9), updates(30.0)], [300, 390]);
    }
}
