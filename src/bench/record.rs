//! The record of one test: the fields of llama.cpp's llama-bench, then a few of our own.
//!
//! Fields say what holds here: no layer is on a GPU unless the device is one, weights are never mapped, and `flash_attn` is 1
//! where attention keeps no scores. Fields without a meaning here hold llama-bench's defaults, so that scripts that read its
//! output read this one.

use serde::Serialize;

use super::case::{Test, TestCase};
use crate::report::statistics;

/// The build and the machine of a measurement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchRun {
    /// Commit of the source; empty if unknown.
    pub commit: String,
    /// Number of commits up to it; 0 if unknown.
    pub build_number: u64,
    /// Name of the processor.
    pub cpu_info: String,
    /// Device that computes.
    pub device: String,
    /// Whether that is a GPU, on which all layers and the cache then are.
    pub on_gpu: bool,
    /// Whether attention keeps no matrix of scores.
    pub fuses_attention: bool,
    /// Whether the cache of a model in bfloat16 is in bfloat16.
    pub keeps_bfloat16: bool,
}

/// The model of a measurement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchModel {
    /// The name under which it was given.
    pub name: String,
    /// Family, parameters, format: `llama 135M F32`.
    pub kind: String,
    /// Its layers.
    pub num_layers: usize,
    /// Bytes of its weights in memory; shared weights count once.
    pub size_bytes: u64,
    /// Total parameters; tied ones count once.
    pub num_parameters: u64,
    /// Active parameters: those that one token visits.
    pub num_active_parameters: u64,
    /// The number format of most of its bytes.
    pub dtype: String,
    /// How it was grown; empty if it was not.
    pub growth: String,
}

/// Times of a test, in the order in which they were taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Samples {
    /// Nanoseconds of each repetition.
    pub total_ns: Vec<u64>,
    /// Nanoseconds to the first logits of each repetition; empty for training.
    pub first_ns: Vec<u64>,
}

/// The results of a test.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Start of the test, RFC 3339 in UTC.
    pub test_time: String,
    /// Times of the repetitions.
    pub samples: Samples,
    /// Floating-point operations of one repetition.
    pub flops: u128,
    /// Highest resident memory of the process so far, in bytes, if the system reports it.
    pub peak_rss: Option<u64>,
    /// Memory of the GPU in use after the test, in bytes, where its driver reports it.
    pub gpu_memory: Option<u64>,
    /// Joules of all repetitions, where the machine reports them.
    pub energy_j: Option<f64>,
    /// How tokens were decoded, if any were.
    pub decoding: Option<String>,
}

/// One test: the fields of llama-bench in its order, those of earlier versions included, then ours.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names are llama-bench's")]
pub struct BenchRecord {
    pub build_commit: String,
    pub build_number: u64,
    pub cpu_info: String,
    pub gpu_info: String,
    pub backends: String,
    pub model_filename: String,
    pub model_type: String,
    pub model_size: u64,
    pub model_n_params: u64,
    pub n_batch: u64,
    pub n_ubatch: u64,
    pub n_threads: usize,
    pub cpu_mask: &'static str,
    pub cpu_strict: bool,
    pub poll: u64,
    pub type_k: &'static str,
    pub type_v: &'static str,
    pub n_gpu_layers: i64,
    pub n_cpu_moe: u64,
    pub split_mode: &'static str,
    pub main_gpu: u64,
    pub no_kv_offload: bool,
    pub flash_attn: i64,
    pub devices: &'static str,
    pub tensor_split: &'static str,
    pub tensor_buft_overrides: &'static str,
    pub use_mmap: bool,
    pub use_direct_io: bool,
    pub load_mode: &'static str,
    pub lazy_mode: &'static str,
    pub embeddings: bool,
    pub no_op_offload: u64,
    pub no_host: bool,
    pub repack: bool,
    pub fit_target: u64,
    pub fit_min_ctx: u64,
    pub n_prompt: usize,
    pub n_gen: usize,
    pub n_depth: usize,
    pub test_time: String,
    pub avg_ns: u64,
    pub stddev_ns: u64,
    pub avg_ts: f64,
    pub stddev_ts: f64,
    pub samples_ns: Vec<u64>,
    pub samples_ts: Vec<f64>,
    /// Name of the test.
    pub test: String,
    /// Sequences at once.
    pub batch_size: usize,
    /// Tokens per sequence of a training step, else 0.
    pub n_train: usize,
    /// The number format of most bytes of the weights.
    pub dtype: String,
    /// How the model was grown; empty if it was not.
    pub growth: String,
    /// Active parameters: those that one token visits.
    pub model_n_params_active: u64,
    /// Floating-point operations of one repetition.
    pub flops: u128,
    /// Mean nanoseconds to the first logits; `null` for training.
    pub ttft_ns: Option<u64>,
    /// Highest resident memory of the process up to the end of the test, in bytes; `null` if the system does not report it.
    pub peak_rss: Option<u64>,
    /// Memory in use on the NVIDIA GPU that computes, in bytes, including that of other processes; `null` on other devices. Pools
    /// rarely give back what they have reserved, so it is near the peak of all tests so far.
    pub gpu_memory: Option<u64>,
    /// Joules of the timed repetitions, of the NVIDIA GPU or the processor that computes, including those of other processes; `null` on
    /// other devices, where no counter can be read, and for repetitions that are too short for it.
    pub energy_j: Option<f64>,
    /// How tokens were decoded: by `replayed` passes, or `direct` ones, with the reason if the device refused to capture one;
    /// `null` if none were.
    pub decoding: Option<String>,
}

impl BenchRecord {
    /// Builds the record of a test.
    pub fn new(run: &BenchRun, model: &BenchModel, case: TestCase, measured: Measured) -> Self {
        let Measured { test_time, samples, flops, peak_rss, gpu_memory, energy_j, decoding } = measured;
        let (n_prompt, n_gen, n_depth, n_train) = match case.test {
            Test::Inference { n_prompt, n_gen, n_depth } => (n_prompt, n_gen, n_depth, 0),
            Test::Train { n_train } => (0, 0, 0, n_train),
        };
        let samples_ts: Vec<f64> = samples.total_ns.iter().map(|ns| rate(case.num_tokens(), *ns)).collect();
        let nanoseconds: Vec<f64> = samples.total_ns.iter().map(|ns| *ns as f64).collect();
        let keeps_bfloat16 = run.keeps_bfloat16 && model.dtype == "bfloat16" && n_train == 0;
        let type_of_cache = if keeps_bfloat16 { "bf16" } else { "f32" };
        Self {
            build_commit: run.commit.clone(),
            build_number: run.build_number,
            cpu_info: run.cpu_info.clone(),
            gpu_info: if run.on_gpu { run.device.clone() } else { String::new() },
            backends: run.device.clone(),
            model_filename: model.name.clone(),
            model_type: model.kind.clone(),
            model_size: model.size_bytes,
            model_n_params: model.num_parameters,
            n_batch: 2048,
            n_ubatch: 512,
            n_threads: case.n_threads,
            cpu_mask: "0x0",
            cpu_strict: false,
            poll: 50,
            type_k: type_of_cache,
            type_v: type_of_cache,
            // The head counts as a layer, as in llama.cpp.
            n_gpu_layers: if run.on_gpu { model.num_layers as i64 + 1 } else { 0 },
            n_cpu_moe: 0,
            split_mode: "layer",
            main_gpu: 0,
            no_kv_offload: !run.on_gpu,
            flash_attn: i64::from(run.fuses_attention),
            devices: "auto",
            tensor_split: "0.00",
            tensor_buft_overrides: "none",
            use_mmap: false,
            use_direct_io: false,
            load_mode: "none",
            lazy_mode: "off",
            embeddings: false,
            no_op_offload: 0,
            no_host: false,
            repack: false,
            fit_target: 0,
            fit_min_ctx: 0,
            n_prompt,
            n_gen,
            n_depth,
            test_time,
            avg_ns: average_ns(&samples.total_ns).unwrap_or(0),
            stddev_ns: deviation(&nanoseconds) as u64,
            avg_ts: statistics::mean(&samples_ts).unwrap_or(0.0),
            stddev_ts: deviation(&samples_ts),
            samples_ns: samples.total_ns,
            samples_ts,
            test: case.name(),
            batch_size: case.batch_size,
            n_train,
            dtype: model.dtype.clone(),
            growth: model.growth.clone(),
            model_n_params_active: model.num_active_parameters,
            flops,
            ttft_ns: average_ns(&samples.first_ns),
            peak_rss,
            gpu_memory,
            energy_j,
            decoding,
        }
    }
}

/// Tokens per second.
fn rate(num_tokens: usize, ns: u64) -> f64 {
    1e9 * num_tokens as f64 / ns.max(1) as f64
}

/// The mean, rounded down; `None` without samples.
fn average_ns(samples: &[u64]) -> Option<u64> {
    let sum: u128 = samples.iter().map(|ns| u128::from(*ns)).sum();
    Some(sum.checked_div(samples.len() as u128)? as u64)
}

/// The sample standard deviation; 0 for a single sample.
fn deviation(samples: &[f64]) -> f64 {
    statistics::variance(samples).map_or(0.0, f64::sqrt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn avg_ts_is_the_mean_of_rates() {
        let test = Test::Inference { n_prompt: 10, n_gen: 0, n_depth: 0 };
        let case = TestCase { test, batch_size: 2, n_threads: 1 };
        let run = BenchRun {
            commit: String::new(),
            build_number: 0,
            cpu_info: String::new(),
            device: String::new(),
            on_gpu: false,
            fuses_attention: true,
            keeps_bfloat16: false,
        };
        let model = BenchModel {
            name: String::new(),
            kind: String::new(),
            num_layers: 3,
            size_bytes: 0,
            num_parameters: 0,
            num_active_parameters: 0,
            dtype: String::new(),
            growth: String::new(),
        };
        let samples = Samples { total_ns: vec![1_000_000_000, 3_000_000_000], first_ns: vec![] };
        let measured = Measured {
            test_time: String::new(),
            samples,
            flops: 0,
            peak_rss: None,
            gpu_memory: None,
            energy_j: None,
            decoding: None,
        };
        let gpu = BenchRun { on_gpu: true, ..run.clone() };
        assert_eq!(BenchRecord::new(&gpu, &model, case, measured.clone()).n_gpu_layers, 4);
        let record = BenchRecord::new(&run, &model, case, measured);
        assert_eq!((record.n_gpu_layers, record.no_kv_offload, record.flash_attn), (0, true, 1));
        assert_eq!(record.samples_ts, [20.0, 20.0 / 3.0]);
        assert_eq!((record.avg_ns, record.stddev_ns), (2_000_000_000, 1_414_213_562));
        assert!((record.avg_ts - 40.0 / 3.0).abs() < 1e-12 && (record.stddev_ts - 9.428_090_4).abs() < 1e-6);
        assert_eq!(record.ttft_ns, None);
    }

    #[test]
    fn one_sample_has_no_deviation() {
        assert_eq!((deviation(&[3.0]), deviation(&[])), (0.0, 0.0));
        assert_eq!(average_ns(&[]), None);
        assert_eq!(average_ns(&[1, 2]), Some(1));
    }
}
