//! What `bench` measured, test by test, in the fields of llama.cpp's llama-bench and a few of our own behind them.
//!
//! Fields that mean nothing here hold llama-bench's defaults, so that scripts that read its output read this one.

mod printer;

pub use printer::{Format, Printer};

use serde::Serialize;

/// What a test computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// `n_prompt` tokens in one pass, then `n_gen` one at a time, behind `n_depth` that are there before the clock runs.
    Inference {
        /// Tokens of the prompt; may be 0.
        n_prompt: usize,
        /// Tokens decoded; may be 0.
        n_gen: usize,
        /// Tokens in the cache before.
        n_depth: usize,
    },
    /// One update: forward, loss, backward, clipping, optimizer.
    Train {
        /// Tokens per sequence.
        n_train: usize,
    },
}

/// A test with what it runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TestCase {
    /// What is computed.
    pub test: Test,
    /// Sequences at once.
    pub batch_size: usize,
    /// Threads that compute.
    pub n_threads: usize,
}

impl TestCase {
    /// Tokens that one repetition processes, all sequences together, those of the depth aside.
    pub fn num_tokens(&self) -> usize {
        self.batch_size
            * match self.test {
                Test::Inference { n_prompt, n_gen, .. } => n_prompt + n_gen,
                Test::Train { n_train } => n_train,
            }
    }

    /// As llama-bench calls it: `pp512`, `tg128`, `pp512+tg128`, each with ` @ d4096` at a depth; and `train4x256`.
    pub fn name(&self) -> String {
        match self.test {
            Test::Inference { n_prompt, n_gen, n_depth } => {
                let name = match (n_prompt, n_gen) {
                    (pp, 0) => format!("pp{pp}"),
                    (0, tg) => format!("tg{tg}"),
                    (pp, tg) => format!("pp{pp}+tg{tg}"),
                };
                if n_depth == 0 { name } else { format!("{name} @ d{n_depth}") }
            }
            Test::Train { n_train } => format!("train{}x{n_train}", self.batch_size),
        }
    }
}

/// Where and with what was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchRun {
    /// Commit of the source, where it is known.
    pub commit: String,
    /// Commits up to it, or 0.
    pub build_number: u64,
    /// Name of the processor.
    pub cpu_info: String,
    /// Where was computed.
    pub device: String,
}

/// The model that was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchModel {
    /// As it was named.
    pub name: String,
    /// Family, parameters, format: `llama 135M F32`.
    pub kind: String,
    /// Bytes of its weights in memory, what layers share once.
    pub size_bytes: u64,
    /// Parameters, tied ones once.
    pub num_parameters: u64,
    /// Those that a token meets.
    pub num_active_parameters: u64,
    /// The format of most of its bytes.
    pub dtype: String,
    /// How it was grown; empty if it was not.
    pub growth: String,
}

/// What a test took: samples in the order in which they were taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Samples {
    /// Nanoseconds of each repetition.
    pub total_ns: Vec<u64>,
    /// Of each repetition, nanoseconds until the first logits were there; none of training.
    pub first_ns: Vec<u64>,
}

/// A test that has run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// When it began, RFC 3339 in UTC.
    pub test_time: String,
    /// Its times.
    pub samples: Samples,
    /// Floating-point operations of one repetition.
    pub flops: u128,
    /// Highest resident memory of the process so far, in bytes, where the system tells.
    pub peak_rss: Option<u64>,
}

/// Everything about one test: the fields of llama-bench in its order, then ours.
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
    pub embeddings: bool,
    pub no_op_offload: u64,
    pub no_host: bool,
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
    /// Parameters that one token meets.
    pub model_n_params_active: u64,
    /// Floating-point operations of one repetition.
    pub flops: u128,
    /// Mean nanoseconds until the first logits; `null` of training.
    pub ttft_ns: Option<u64>,
    /// Highest resident memory of the process until the end of the test, in bytes; `null` where the system does not tell.
    pub peak_rss: Option<u64>,
}

impl BenchRecord {
    /// The record of a test.
    pub fn new(run: &BenchRun, model: &BenchModel, case: TestCase, measured: Measured) -> Self {
        let Measured { test_time, samples, flops, peak_rss } = measured;
        let (n_prompt, n_gen, n_depth, n_train) = match case.test {
            Test::Inference { n_prompt, n_gen, n_depth } => (n_prompt, n_gen, n_depth, 0),
            Test::Train { n_train } => (0, 0, 0, n_train),
        };
        let samples_ts: Vec<f64> = samples.total_ns.iter().map(|ns| rate(case.num_tokens(), *ns)).collect();
        let nanoseconds: Vec<f64> = samples.total_ns.iter().map(|ns| *ns as f64).collect();
        Self {
            build_commit: run.commit.clone(),
            build_number: run.build_number,
            cpu_info: run.cpu_info.clone(),
            gpu_info: String::new(),
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
            type_k: "f32",
            type_v: "f32",
            n_gpu_layers: -1,
            n_cpu_moe: 0,
            split_mode: "layer",
            main_gpu: 0,
            no_kv_offload: false,
            flash_attn: -1,
            devices: "auto",
            tensor_split: "0.00",
            tensor_buft_overrides: "none",
            use_mmap: true,
            use_direct_io: false,
            embeddings: false,
            no_op_offload: 0,
            no_host: false,
            fit_target: 0,
            fit_min_ctx: 0,
            n_prompt,
            n_gen,
            n_depth,
            test_time,
            avg_ns: average_ns(&samples.total_ns).unwrap_or(0),
            stddev_ns: deviation(&nanoseconds) as u64,
            avg_ts: super::statistics::mean(&samples_ts).unwrap_or(0.0),
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
        }
    }
}

/// Tokens a second.
fn rate(num_tokens: usize, ns: u64) -> f64 {
    1e9 * num_tokens as f64 / ns.max(1) as f64
}

/// The mean, rounded down; `None` of nothing.
fn average_ns(samples: &[u64]) -> Option<u64> {
    let sum: u128 = samples.iter().map(|ns| u128::from(*ns)).sum();
    Some(sum.checked_div(samples.len() as u128)? as u64)
}

/// The deviation that a sample shows; 0 of one.
fn deviation(samples: &[f64]) -> f64 {
    super::statistics::variance(samples).map_or(0.0, f64::sqrt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_have_the_names_of_llama_bench() {
        let name = |test| TestCase { test, batch_size: 4, n_threads: 1 }.name();
        let inference = |n_prompt, n_gen, n_depth| name(Test::Inference { n_prompt, n_gen, n_depth });
        assert_eq!(inference(512, 0, 0), "pp512");
        assert_eq!(inference(0, 128, 4096), "tg128 @ d4096");
        assert_eq!(inference(512, 128, 0), "pp512+tg128");
        assert_eq!(name(Test::Train { n_train: 256 }), "train4x256");
    }

    #[test]
    fn the_mean_of_rates_is_not_the_rate_of_the_mean() {
        let test = Test::Inference { n_prompt: 10, n_gen: 0, n_depth: 0 };
        let case = TestCase { test, batch_size: 2, n_threads: 1 };
        let run = BenchRun { commit: String::new(), build_number: 0, cpu_info: String::new(), device: String::new() };
        let model = BenchModel {
            name: String::new(),
            kind: String::new(),
            size_bytes: 0,
            num_parameters: 0,
            num_active_parameters: 0,
            dtype: String::new(),
            growth: String::new(),
        };
        let samples = Samples { total_ns: vec![1_000_000_000, 3_000_000_000], first_ns: vec![] };
        let measured = Measured { test_time: String::new(), samples, flops: 0, peak_rss: None };
        let record = BenchRecord::new(&run, &model, case, measured);
        assert_eq!(record.samples_ts, [20.0, 20.0 / 3.0]);
        assert_eq!((record.avg_ns, record.stddev_ns), (2_000_000_000, 1_414_213_562));
        assert!((record.avg_ts - 40.0 / 3.0).abs() < 1e-12 && (record.stddev_ts - 9.428_090_4).abs() < 1e-6);
        assert_eq!(record.ttft_ns, None);
    }

    #[test]
    fn one_sample_shows_no_deviation() {
        assert_eq!((deviation(&[3.0]), deviation(&[])), (0.0, 0.0));
        assert_eq!(average_ns(&[]), None);
        assert_eq!(average_ns(&[1, 2]), Some(1));
    }
}
