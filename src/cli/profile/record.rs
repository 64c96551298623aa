//! The record of a profile.

use serde::Serialize;

use crate::profile::ModuleProfile;
use crate::profile::convention::FlopConvention;
use crate::profile::memory_report::MemoryReport;

/// The object that is printed with `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Record {
    pub model: String,
    pub device: String,
    pub n_threads: usize,
    pub total_parameters: u64,
    pub active_parameters: u64,
    pub weight_bytes: u64,
    pub flop_convention: FlopConvention,
    pub flops_per_mac: u8,
    /// Measured before the tests; null in a dry run.
    pub peak_flops_per_s: Option<f64>,
    pub peak_bytes_per_s: Option<f64>,
    pub tests: Vec<TestRecord>,
}

/// The profile of a test.
#[derive(Debug, Serialize)]
pub(super) struct TestRecord {
    pub test: String,
    pub batch_size: usize,
    /// Joules of the processor during all repetitions; null where the machine does not tell, and in a dry run.
    pub energy_j: Option<f64>,
    /// Null without `--memory`.
    pub memory: Option<MemoryReport>,
    #[serde(flatten)]
    pub profile: ModuleProfile,
}
