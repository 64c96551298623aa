//! `profile`: where parameters, FLOPs, bytes and time of a model go, module by module.

mod args;
mod record;
mod shape;
mod text;

use serde_json::json;

pub use args::{ConventionArg, ProfileArgs};

use self::record::{Record, TestRecord};
use self::shape::{Shape, bytes_per_number};
use super::bench::num_cores;
use super::console;
use super::failure::Failure;
use super::output;
use crate::bench::{BenchError, Pools, Subject, Target, Test, TestCase};
use crate::device::{Device, device};
use crate::load::Precision;
use crate::model::AnyDecoder;
use crate::profile::flops::count_parameters;
use crate::profile::memory_report::MemoryReport;
use crate::profile::peak::Peaks;
use crate::profile::throughput::InferenceTest;
use crate::profile::{BytesPerNumber, Counting, ModuleProfile, ProfileTest};
use crate::weights::Dtype;

/// Prints the profile of every test.
///
/// # Errors
/// If the model cannot be opened, a test does not fit it, or stdout cannot be written.
pub fn run(args: &ProfileArgs) -> Result<(), Failure> {
    let n_threads = args.threads.unwrap_or_else(num_cores);
    let cases = args.cases(n_threads)?;
    let record = match args.dry_run {
        true => counted(args, &cases)?,
        false => Pools::new(&cases)?.run(|| measured(args, &cases))?,
    };
    output::print(&if args.json {
        format!("{:#}\n", json!(record))
    } else {
        text::of(&record, output::terminal_width())
    })
}

/// Counts from headers or a config alone.
fn counted(args: &ProfileArgs, cases: &[TestCase]) -> Result<Record, Failure> {
    let shape = Shape::of(args)?;
    cases.iter().try_for_each(|case| case.fits_context(&shape.name, &shape.config))?;
    let (parameters, counting) = (count_parameters(&shape.config), args.counting(shape.bytes_per_number));
    let profiled = |case: &TestCase| TestRecord {
        test: case.name(),
        batch_size: case.batch_size,
        peak_flops_per_s: None,
        memory: args.memory.then(|| {
            let training = args.precision().unwrap_or(Precision::FLOAT32).in_training();
            MemoryReport::foreseen(&shape.config, shape.weight_bytes, training, profile_test(case))
        }),
        profile: ModuleProfile::counted(&shape.config, profile_test(case), counting),
    };
    Ok(Record {
        model: shape.name.clone(),
        device: args.device.clone(),
        n_threads: cases[0].n_threads,
        total_parameters: parameters.total,
        active_parameters: parameters.active,
        weight_bytes: shape.weight_bytes,
        dtype: shape.dtype.clone(),
        flop_convention: counting.convention,
        flops_per_mac: counting.flops_per_mac,
        peak_flops_per_s: None,
        peak_bfloat16_flops_per_s: None,
        peak_float16_flops_per_s: None,
        peak_bytes_per_s: None,
        tests: cases.iter().map(profiled).collect(),
    })
}

/// Loads the model and times every test.
fn measured(args: &ProfileArgs, cases: &[TestCase]) -> Result<Record, Failure> {
    let device = device(&args.device)?;
    let opened = shape::opened(args)?;
    let grown = opened.growth()?;
    let subject = Subject {
        name: opened.name(),
        checkpoint: opened.checkpoint(),
        source: &grown.source,
        growth: grown.title(),
        keeps_formats: args.growth.options().is_empty(),
    };
    let precision = args.precision();
    let target = Target::new(subject, precision, cases, &device)?;
    let parameters = count_parameters(target.config());
    let measure = || Peaks::measure(target.precision().product_dtype(), &device);
    let before = measure();
    let tests = timed(args, cases, &target, &device)?;
    let peaks = before.max(measure());
    let of_peak = |(dtype, test)| TestRecord { peak_flops_per_s: Some(peaks.of_products(dtype).0), ..test };
    Ok(Record {
        model: opened.full_name(&grown),
        device: args.device.clone(),
        n_threads: cases[0].n_threads,
        total_parameters: parameters.total,
        active_parameters: parameters.active,
        weight_bytes: target.weights().size_bytes(),
        dtype: target.weights().main_format().unwrap_or_default().to_owned(),
        flop_convention: args.convention.convention(),
        flops_per_mac: args.flops_per_mac,
        peak_flops_per_s: Some(peaks.flops_per_s),
        peak_bfloat16_flops_per_s: peaks.of_half(Dtype::Bfloat16),
        peak_float16_flops_per_s: peaks.of_half(Dtype::Float16),
        peak_bytes_per_s: Some(peaks.bytes_per_s),
        tests: tests.into_iter().map(of_peak).collect(),
    })
}

/// Inference first, then training, which loads the model again. With the type of the weights in the products of each test, and without
/// its peak.
fn timed(
    args: &ProfileArgs,
    cases: &[TestCase],
    target: &Target<'_>,
    device: &Device,
) -> Result<Vec<(Dtype, TestRecord)>, Failure> {
    let tell = |case: &TestCase| console::detail(format_args!("{}: {} repetitions", case.name(), args.repetitions));
    let record = |case: &TestCase, profile, memory| TestRecord {
        test: case.name(),
        batch_size: case.batch_size,
        peak_flops_per_s: None,
        memory,
        profile,
    };
    let mut tests = Vec::new();
    let mut model: Option<AnyDecoder> = None;
    let dtype = target.precision().product_dtype();
    let bytes = bytes_per_number(target.config(), target.precision(), target.weights().unshared_bytes(), device);
    for case in cases {
        if let ProfileTest::Inference(test) = profile_test(case) {
            tell(case);
            let model = match &model {
                Some(model) => model,
                None => model.insert(target.load(device)?),
            };
            let profile = ModuleProfile::measured(model, test, args.counting(bytes), args.repetitions, device);
            let weight_bytes = model.footprint().size_bytes();
            let measure = || MemoryReport::of_inference(model, weight_bytes, test, device);
            tests.push((dtype, record(case, profile, args.memory.then(measure))));
        }
    }
    drop(model);
    let device = &device.clone().autodiff();
    let mut model: Option<AnyDecoder> = None;
    let precision = target.training_precision();
    let counting = args.counting(bytes_per_number(target.config(), precision, 0, device));
    for case in cases {
        if let ProfileTest::Training { batch_size, seq_length } = profile_test(case) {
            tell(case);
            let loaded = model.take().map_or_else(|| target.load_to_train(device), Ok)?;
            let sizes = [batch_size, seq_length];
            let trained = ModuleProfile::measured_training(loaded, sizes, counting, args.repetitions, device);
            let (profile, mut trained) = trained.map_err(BenchError::Train)?;
            let memory = match args.memory {
                true => {
                    let (report, after) =
                        MemoryReport::of_training(trained, precision, sizes, device).map_err(BenchError::Train)?;
                    trained = after;
                    Some(report)
                }
                false => None,
            };
            model = Some(trained);
            tests.push((precision.product_dtype(), record(case, profile, memory)));
        }
    }
    Ok(tests)
}

impl ProfileArgs {
    fn counting(&self, bytes_per_number: BytesPerNumber) -> Counting {
        Counting { convention: self.convention.convention(), flops_per_mac: self.flops_per_mac, bytes_per_number }
    }
}

fn profile_test(case: &TestCase) -> ProfileTest {
    let batch_size = case.batch_size;
    match case.test {
        Test::Inference { n_prompt, n_gen, n_depth } => {
            ProfileTest::Inference(InferenceTest { n_prompt, n_gen, n_depth, batch_size })
        }
        Test::Train { n_train } => ProfileTest::Training { batch_size, seq_length: n_train },
    }
}
