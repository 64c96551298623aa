//! Profiles of models side by side: plain records, from which figures are drawn.

use serde::{Deserialize, Serialize};

use super::records::{ArmKind, RunInfo};
use super::statistics;
use crate::profile::Timing;

/// What was measured of every model on one device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProfileStudy {
    /// The build and the machine.
    pub run: RunInfo,
    /// FLOP/s of a large product, measured at the start.
    pub peak_flops_per_s: f64,
    /// Type of the weights of that product.
    pub peak_dtype: String,
    /// Bytes per second of a product that reads a large matrix, measured at the start.
    pub peak_bytes_per_s: f64,
    /// CPUs that other processes kept busy on average; `None` where the system does not report it.
    pub other_cpus: Option<f64>,
    /// Joules of the processor or GPU during all measurements; `None` where the machine does not tell.
    pub energy_j: Option<f64>,
    /// The models.
    pub models: Vec<ProfiledModel>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProfiledModel {
    /// Name to show.
    pub name: String,
    /// Dense, deep or wide.
    pub kind: ArmKind,
    /// All parameters.
    pub total_parameters: u64,
    /// Those that a token uses.
    pub active_parameters: u64,
    /// Bytes of the weights, none of them shared: as read from a file.
    pub weight_bytes: u64,
    /// Prefill, then decoding, by module.
    pub by_module: Vec<ModuleTable>,
    /// Prefill and decoding at several batches and contexts.
    pub speeds: Vec<SpeedPoint>,
    /// Memory of inference, then of training; empty where it cannot be counted.
    pub memory: Vec<MemoryCurve>,
}

/// The modules of a test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModuleTable {
    /// The test: `pp256`.
    pub test: String,
    /// What measured their times; `None` in records of older versions, which had the host's clock alone.
    #[serde(default)]
    pub timing: Option<Timing>,
    /// Median seconds of a whole repetition by the host's clock, without events; `None` unless events timed the modules.
    #[serde(default)]
    pub run_time_s: Option<f64>,
    /// Modules in the order in which they compute.
    pub modules: Vec<ModulePoint>,
}

/// A module in all layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModulePoint {
    /// Its path: `layer.self_attn.qkv_proj`.
    pub path: String,
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes of weights, keys and values.
    pub bytes: f64,
    /// Median seconds.
    pub time_s: f64,
}

/// Tokens per second at a batch and a context.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpeedPoint {
    /// Whether a prompt is computed, or tokens one at a time.
    pub is_prefill: bool,
    /// Sequences at once.
    pub batch: usize,
    /// Tokens of the prompt, or in the cache before.
    pub context: usize,
    /// Tokens of a repetition, of all sequences.
    pub tokens: usize,
    /// Floating-point operations of a repetition.
    pub flops: f64,
    /// Bytes of weights, keys and values of a repetition.
    pub bytes: f64,
    /// Seconds of each repetition.
    pub samples_s: Vec<f64>,
}

/// Memory over the time of one repetition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemoryCurve {
    /// The test: `pp256`, `train4x128`.
    pub test: String,
    /// Moments in their order.
    pub points: Vec<MemoryPoint>,
}

/// Bytes in use by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPoint {
    /// Nanoseconds after the start.
    pub at_ns: u64,
    /// Weights.
    pub weights: u64,
    /// Keys and values.
    pub cache: u64,
    /// Moments of the optimizer.
    pub optimizer: u64,
    /// Gradients.
    pub gradients: u64,
    /// Activations and temporaries.
    pub activations: u64,
}

impl SpeedPoint {
    /// Tokens per second at the median time.
    pub fn tokens_per_s(&self) -> f64 {
        self.tokens as f64 / self.time_s()
    }

    /// The median time.
    pub fn time_s(&self) -> f64 {
        if self.samples_s.is_empty() { f64::NAN } else { statistics::median(&self.samples_s) }
    }

    /// Tokens per second that a device with these peaks cannot exceed.
    pub fn bound_tokens_per_s(&self, peak_flops_per_s: f64, peak_bytes_per_s: f64) -> f64 {
        self.tokens as f64 / (self.flops / peak_flops_per_s).max(self.bytes / peak_bytes_per_s)
    }
}
