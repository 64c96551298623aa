//! Model FLOPs utilization: the share of a device's peak that training uses.

use crate::config::DecoderConfig;
use crate::finetune::Settings;
use crate::profile::flops::train_flops;

/// Counts the operations of updates as a share of the peak (Chowdhery et al., 2022, arXiv:2204.02311, appendix B). Recomputed
/// layers do not count. Under an adapter, the gradients of the matrices are not computed, and a third less is counted.
#[derive(Debug, Clone)]
pub(super) struct Utilization {
    config: DecoderConfig,
    /// Sequences of an update.
    num_sequences: u64,
    has_adapter: bool,
    peak_flops_per_s: f64,
}

impl Utilization {
    pub(super) fn new(config: &DecoderConfig, settings: &Settings, peak_flops_per_s: f64) -> Self {
        let sides = if settings.dpo.is_some() { 2 } else { 1 };
        let num_sequences = (sides * settings.batch_size) as u64;
        Self { config: config.clone(), num_sequences, has_adapter: settings.lora.is_some(), peak_flops_per_s }
    }

    /// Operations of one update of `num_tokens`, in sequences of about one length.
    pub(super) fn update_flops(&self, num_tokens: u64) -> f64 {
        let length = num_tokens.div_ceil(self.num_sequences).max(1);
        let flops = train_flops(&self.config, 1, length) as f64 / length as f64 * num_tokens as f64;
        if self.has_adapter { 2.0 / 3.0 * flops } else { flops }
    }

    /// The share of the peak at which `flops` were computed in `wall_s`.
    pub(super) fn of(&self, flops: f64, wall_s: f64) -> f64 {
        flops / wall_s / self.peak_flops_per_s
    }
}
