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
    /// The format of most weights for inference: `float32`, `bfloat16`, `Q8_0`.
    pub dtype: String,
    pub flop_convention: FlopConvention,
    pub flops_per_mac: u8,
    /// Of products with float32 weights; all peaks are the larger of measurements before and after the tests, and null in a
    /// dry run.
    pub peak_flops_per_s: Option<f64>,
    /// Of products with bfloat16 weights; null unless they are loaded so.
    pub peak_bfloat16_flops_per_s: Option<f64>,
    /// The same of float16; null also where products widen them.
    pub peak_float16_flops_per_s: Option<f64>,
    pub peak_bytes_per_s: Option<f64>,
    pub tests: Vec<TestRecord>,
}

/// The profile of a test.
#[derive(Debug, Serialize)]
pub(super) struct TestRecord {
    pub test: String,
    pub batch_size: usize,
    /// The peak of products with weights of the test's type, of float32 ones for quantized weights; null in a dry run.
    pub peak_flops_per_s: Option<f64>,
    /// Null without `--memory`.
    pub memory: Option<MemoryReport>,
    #[serde(flatten)]
    pub profile: ModuleProfile,
}
