//! `profile`: where parameters, FLOPs, bytes and time of a model go, module by module.

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::bench::{Sizes, counts, num_cores, one_count, sizes};
use super::console;
use super::failure::Failure;
use super::grow::{GrowthArgs, brief};
use super::opened::OpenedModel;
use super::output::{self, aligned, operations, short_count, size};
use super::values::DtypeArg;
use crate::bench::{Pools, Subject, Target, Test, TestCase};
use crate::device::device;
use crate::load::Precision;
use crate::profile::flops::count_parameters;
use crate::profile::{ModuleProfile, ModuleRow, peak, throughput};

/// Show parameters, FLOPs, bytes and time by module
///
/// Counts come from the config: a multiplication and an addition are two FLOPs, a token attends to itself and the tokens before it,
/// bytes are those of weights, keys and values. Times are medians of repetitions in which every module is synchronized, beside peaks
/// that are measured first. Options of growth change the model as it is loaded; nothing is written.
#[derive(Debug, Clone, Args)]
#[command(mut_args(brief))]
pub struct ProfileArgs {
    /// Hugging Face directory, .gguf file, or id on the hub: org/name or org/name@revision
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Prompt tokens in one pass; 0 for no such test
    #[arg(short = 'p', long, value_name = "N", value_delimiter = ',', default_value = "512", value_parser = sizes, help_heading = "Tests")]
    pub n_prompt: Vec<Sizes>,
    /// Tokens decoded one at a time; 0 for no such test
    #[arg(short = 'n', long, value_name = "N", value_delimiter = ',', default_value = "32", value_parser = sizes, help_heading = "Tests")]
    pub n_gen: Vec<Sizes>,
    /// Tokens in the cache before
    #[arg(short = 'd', long, value_name = "N", value_delimiter = ',', default_value = "0", value_parser = sizes, help_heading = "Tests")]
    pub n_depth: Vec<Sizes>,
    /// Sequences at once
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1", value_parser = counts, help_heading = "Tests")]
    pub sequences: Vec<Sizes>,
    /// Threads [default: all cores]
    #[arg(short = 't', long, value_name = "N", value_parser = one_count, help_heading = "Tests")]
    pub threads: Option<usize>,
    /// Timed repetitions
    #[arg(short = 'r', long, value_name = "N", default_value = "5", value_parser = one_count, help_heading = "Tests")]
    pub repetitions: usize,
    /// Count only, from headers; nothing is loaded
    #[arg(long, help_heading = "Tests")]
    pub dry_run: bool,
    /// Print one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Type of the matrices: float32, float16, bfloat16 [default: as quantized in a GGUF file, else float32]
    #[arg(long, value_enum, value_name = "TYPE", hide_possible_values = true, help_heading = "Weights and device")]
    pub dtype: Option<DtypeArg>,
    /// flex; cuda, cuda:1, vulkan, ndarray, tch:cpu in other builds
    #[arg(long, default_value = "flex", help_heading = "Weights and device")]
    pub device: String,
    /// How to grow the model before it is profiled.
    #[command(flatten)]
    pub growth: GrowthArgs,
}

/// The object that is printed with `--json`.
#[derive(Debug, Serialize)]
struct Record {
    model: String,
    device: String,
    n_threads: usize,
    total_parameters: u64,
    active_parameters: u64,
    weight_bytes: u64,
    /// Measured before the tests; null in a dry run.
    peak_flops_per_s: Option<f64>,
    peak_bytes_per_s: Option<f64>,
    tests: Vec<TestRecord>,
}

#[derive(Debug, Serialize)]
struct TestRecord {
    test: String,
    batch_size: usize,
    #[serde(flatten)]
    profile: ModuleProfile,
}

/// Prints the profile of every test.
///
/// # Errors
/// If the model cannot be opened, a test does not fit it, or stdout cannot be written.
pub fn run(args: &ProfileArgs) -> Result<(), Failure> {
    let n_threads = args.threads.unwrap_or_else(num_cores);
    let cases = args.cases(n_threads)?;
    Pools::new(&cases)?.run(|| {
        let device = device(&args.device)?;
        let opened = OpenedModel::new(&args.model, Some(&args.growth))?;
        let grown = opened.growth()?;
        let subject = Subject {
            name: opened.name(),
            checkpoint: opened.checkpoint(),
            source: &grown.source,
            growth: grown.title(),
            keeps_formats: args.growth.options().is_empty(),
        };
        let precision = args.dtype.map(|dtype| Precision::Float(dtype.dtype()));
        let target = Target::new(subject, precision, &cases, &device)?;
        let parameters = count_parameters(target.config());
        let weight_bytes = target.weights().size_bytes();
        let per_weight = weight_bytes as f64 / parameters.total as f64;
        let model = if args.dry_run { None } else { Some(target.load(&device)?) };
        let profiled = |case: &TestCase| {
            let test = inference(case);
            let profile = match &model {
                None => ModuleProfile::counted(target.config(), test, per_weight),
                Some(model) => {
                    console::detail(format_args!("{}: {} repetitions", case.name(), args.repetitions));
                    ModuleProfile::measured(model, test, per_weight, args.repetitions, &device)
                }
            };
            TestRecord { test: case.name(), batch_size: case.batch_size, profile }
        };
        let record = Record {
            model: target.name().to_owned(),
            device: args.device.clone(),
            n_threads,
            total_parameters: parameters.total,
            active_parameters: parameters.active,
            weight_bytes,
            peak_flops_per_s: model.is_some().then(|| peak::product_flops_per_s(&device, false)),
            peak_bytes_per_s: model.is_some().then(|| peak::weight_bytes_per_s(&device)),
            tests: cases.iter().map(profiled).collect(),
        };
        output::print(&if args.json { format!("{:#}\n", json!(record)) } else { as_text(&record) })
    })
}

impl ProfileArgs {
    /// The tests: a prompt, then decoding, for each depth and number of sequences.
    fn cases(&self, n_threads: usize) -> Result<Vec<TestCase>, Failure> {
        let all = |lists: &[Sizes]| lists.iter().flat_map(|Sizes(numbers)| numbers.iter().copied()).collect::<Vec<_>>();
        let prompts = all(&self.n_prompt).into_iter().map(|n_prompt| (n_prompt, 0));
        let tests: Vec<(usize, usize)> = prompts.chain(all(&self.n_gen).into_iter().map(|n_gen| (0, n_gen))).collect();
        let mut cases = Vec::new();
        for n_depth in all(&self.n_depth) {
            for batch_size in all(&self.sequences) {
                let computing = tests.iter().filter(|(n_prompt, n_gen)| n_prompt + n_gen > 0);
                cases.extend(computing.map(|&(n_prompt, n_gen)| {
                    let test = Test::Inference { n_prompt, n_gen, n_depth };
                    TestCase { test, batch_size, n_threads }
                }));
            }
        }
        match cases.is_empty() {
            true => Err(Failure::usage("nothing to profile: -p and -n are 0")),
            false => Ok(cases),
        }
    }
}

fn inference(case: &TestCase) -> throughput::InferenceTest {
    let Test::Inference { n_prompt, n_gen, n_depth } = case.test else { unreachable!("tests here are of inference") };
    throughput::InferenceTest { n_prompt, n_gen, n_depth, batch_size: case.batch_size }
}

fn as_text(record: &Record) -> String {
    let Record { model, device, n_threads, .. } = record;
    let mut text = format!(
        "{model}: {} total parameters, {} active; {} of weights; {device}, {n_threads} threads\n",
        short_count(record.total_parameters.into()),
        short_count(record.active_parameters.into()),
        size(record.weight_bytes),
    );
    if let (Some(flops), Some(bytes)) = (record.peak_flops_per_s, record.peak_bytes_per_s) {
        text += &format!(
            "measured peaks: {:.1} GFLOP/s in float32 products, {:.1} GB/s of weights\n",
            flops / 1e9,
            bytes / 1e9
        );
    }
    for TestRecord { test, profile, batch_size } in &record.tests {
        let total = &profile.total;
        text += &format!("\n{test}, {batch_size} sequence{}: ", if *batch_size == 1 { "" } else { "s" });
        text += &match total.time_s {
            None => format!("{} tokens\n", profile.num_tokens),
            Some(time_s) => format!(
                "{} tokens in {time_s:.3} s, {:.1} t/s\n",
                profile.num_tokens,
                profile.num_tokens as f64 / time_s
            ),
        };
        let mut rows = vec![heading(total.time_s.is_some())];
        rows.extend(profile.modules.iter().chain([total]).map(|row| cells(row, total, record)));
        text += &aligned(&rows);
    }
    text
}

fn heading(is_measured: bool) -> Vec<String> {
    let counted = ["module", "total", "active", "FLOPs", "share", "bytes"];
    let measured = ["ms", "share", "GFLOP/s", "of peak", "GB/s", "of peak"];
    counted.into_iter().chain(measured.into_iter().filter(|_| is_measured)).map(str::to_owned).collect()
}

fn cells(row: &ModuleRow, total: &ModuleRow, record: &Record) -> Vec<String> {
    let or_dash = |number: f64, shown: fn(u128) -> String| {
        if number == 0.0 { "-".to_owned() } else { shown(number as u128) }
    };
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let rate = |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |rate| format!("{:.1}", rate / 1e9));
    let of_peak = |rate: Option<f64>, peak: Option<f64>| {
        rate.zip(peak).map_or_else(|| "-".to_owned(), |(rate, peak)| percent(rate / peak))
    };
    let mut cells = vec![
        row.path.clone(),
        or_dash(row.total_parameters as f64, short_count),
        or_dash(row.active_parameters as f64, short_count),
        or_dash(row.flops, operations),
        percent(row.flops / total.flops),
        or_dash(row.bytes, size),
    ];
    if let (Some(time_s), Some(total_s)) = (row.time_s, total.time_s) {
        cells.extend([
            format!("{:.3}", 1e3 * time_s),
            percent(time_s / total_s),
            rate(row.flops_per_s()),
            of_peak(row.flops_per_s(), record.peak_flops_per_s),
            rate(row.bytes_per_s()),
            of_peak(row.bytes_per_s(), record.peak_bytes_per_s),
        ]);
    }
    cells
}
