//! Model FLOPs utilization: the share of a device's peak that training uses.

use super::operations::Operations;

/// Operations of updates as a share of the peak (Chowdhery et al., 2022, arXiv:2204.02311, appendix B).
#[derive(Debug, Clone)]
pub(super) struct Utilization {
    operations: Operations,
    peak_flops_per_s: f64,
}

impl Utilization {
    pub(super) fn new(operations: Operations, peak_flops_per_s: f64) -> Self {
        Self { operations, peak_flops_per_s }
    }

    /// Operations of one update of `num_tokens`.
    pub(super) fn update_flops(&self, num_tokens: u64) -> f64 {
        self.operations.of_update(num_tokens)
    }

    /// The share of the peak at which `flops` were computed in `wall_s`.
    pub(super) fn of(&self, flops: f64, wall_s: f64) -> f64 {
        flops / wall_s / self.peak_flops_per_s
    }
}
