//! The tests of one model after the other: loading, warming up, timing, tracing.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::{Duration, SystemTime};

use burn::tensor::Device;
use rayon::ThreadPool;

use super::case::{Test, TestCase};
use super::error::BenchError;
use super::record::{BenchModel, BenchRecord, BenchRun, Measured, Samples};
use super::target::Target;
use crate::model::AnyDecoder;
use crate::profile::energy::EnergyCounter;
use crate::profile::flops::train_flops;
use crate::profile::nvidia::NvidiaGpu;
use crate::profile::system_memory::peak_rss_bytes;
use crate::profile::throughput::{InferenceRuns, InferenceTest, RunTime, train_runs};
use crate::trace::{self, Span};

/// Stack of a computing thread: that of a main thread.
const STACK_BYTES: usize = 8 << 20;

/// A thread pool for each number of threads of the tests.
#[derive(Debug)]
pub struct Pools(BTreeMap<usize, ThreadPool>);

impl Pools {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`BenchError::Threads`].
    pub fn new(cases: &[TestCase]) -> Result<Self, BenchError> {
        let mut pools = BTreeMap::new();
        for num_threads in cases.iter().map(|case| case.n_threads) {
            if let Entry::Vacant(pool) = pools.entry(num_threads) {
                let builder = rayon::ThreadPoolBuilder::new().num_threads(num_threads).stack_size(STACK_BYTES);
                let named = builder.thread_name(|index| format!("bench {index}"));
                pool.insert(named.build().map_err(|source| BenchError::Threads { num_threads, source })?);
            }
        }
        Ok(Self(pools))
    }

    /// Runs `work` on the largest pool: kernels ask the pool that they are called on, so everything that computes,
    /// loading included, must run inside.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.0.values().next_back().expect("there is a test").install(work)
    }
}

/// How each test is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Timed repetitions.
    pub repetitions: usize,
    /// Whether untimed repetitions come first: one of inference, two of training.
    pub warmup: bool,
    /// Whether one more repetition is traced.
    pub trace: bool,
    /// Pause before each test.
    pub delay: Duration,
}

/// What a measurement is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// The model of this name is being loaded.
    Loading(&'a str),
    /// A test begins, by its place among those of the model.
    Begin {
        /// The test.
        case: &'a TestCase,
        /// Its number, from 1.
        index: usize,
        /// Tests of the model.
        num_cases: usize,
    },
    /// A timed repetition begins.
    Repetition {
        /// The test.
        case: &'a TestCase,
        /// Its number, from 1.
        index: usize,
        /// Timed repetitions.
        of: usize,
    },
}

/// The traced repetition of each test, with a name for it.
pub type Traces = Vec<(String, Vec<Span>)>;

/// What all tests share.
pub struct Bench<'a> {
    /// The tests.
    pub cases: &'a [TestCase],
    /// Their threads.
    pub pools: &'a Pools,
    /// Where they run.
    pub device: &'a Device,
    /// The counters of the device, opened once, before the clock runs: NVML takes some milliseconds.
    pub energy: Option<EnergyCounter>,
    /// The build and the machine.
    pub run: &'a BenchRun,
    /// How each test is run.
    pub settings: Settings,
    /// Told of progress, never while the clock runs.
    pub watch: &'a (dyn Fn(Progress<'_>) + Sync),
}

impl Bench<'_> {
    /// Loads a model and runs every test, handing each record to `sink` as soon as it exists. Returns the traces.
    ///
    /// # Errors
    /// [`BenchError::Weights`], [`BenchError::Train`], or what `sink` returns.
    pub fn measure<E: From<BenchError>>(
        &self,
        target: &Target<'_>,
        sink: &mut dyn FnMut(&BenchRecord) -> Result<(), E>,
    ) -> Result<Traces, E> {
        let gpu = self.energy.as_ref().and_then(EnergyCounter::gpu);
        let mut traces = Vec::new();
        let mut finish = |model: &BenchModel, case: &TestCase, timed: Timed, flops: u128, decoding: Option<String>| {
            let measured = Measured {
                test_time: timed.begun,
                samples: timed.samples,
                flops,
                peak_rss: peak_rss_bytes(),
                gpu_memory: gpu.and_then(NvidiaGpu::used_bytes),
                energy_j: timed.energy_j,
                decoding,
            };
            let name = || format!("{} {} t{} b{}", model.kind, case.name(), case.n_threads, case.batch_size);
            traces.extend(timed.spans.map(|spans| (name(), spans)));
            sink(&BenchRecord::new(self.run, model, *case, measured))
        };
        let numbered = self.cases.iter().zip(1..);
        let inference: Vec<_> = numbered.clone().filter_map(|(case, i)| Some((case, i, inference(case)?))).collect();
        if !inference.is_empty() {
            (self.watch)(Progress::Loading(target.name()));
            let mut model = target.load(self.device)?;
            let described = target.describe(&model, target.precision());
            wake(&model, self.device);
            for (case, index, test) in inference {
                self.begin(case, index);
                let (timed, decoding, returned) = self.on_threads(case, move || {
                    let mut runs = InferenceRuns::new(&model, test, self.device);
                    let timed = self.time(case, &mut || runs.run());
                    let decoding = runs.decoding().map(ToString::to_string);
                    drop(runs);
                    (timed, decoding, model)
                });
                model = returned;
                finish(&described, case, timed, test.flops(target.config()), decoding)?;
            }
        }
        let training: Vec<_> = numbered.filter_map(|(case, i)| Some((case, i, training(case)?))).collect();
        if !training.is_empty() {
            (self.watch)(Progress::Loading(target.name()));
            let device = &self.device.clone().autodiff();
            let mut model = target.load_to_train(device)?;
            let described = target.describe(&model, target.training_precision());
            wake(&model, device);
            for (case, index, n_train) in training {
                self.begin(case, index);
                let num_steps = self.num_runs(case);
                let run = move || {
                    let work = |step: &mut dyn FnMut() -> RunTime| self.time(case, step);
                    train_runs(model, case.batch_size, n_train, num_steps, device, work)
                };
                let (timed, returned) = self.on_threads(case, run).map_err(BenchError::Train)?;
                model = returned;
                let flops = train_flops(target.config(), case.batch_size as u64, n_train as u64);
                finish(&described, case, timed, flops, None)?;
            }
        }
        Ok(traces)
    }

    fn begin(&self, case: &TestCase, index: usize) {
        (self.watch)(Progress::Begin { case, index, num_cases: self.cases.len() });
        std::thread::sleep(self.settings.delay);
    }

    fn on_threads<R: Send>(&self, case: &TestCase, work: impl FnOnce() -> R + Send) -> R {
        self.pools.0[&case.n_threads].install(work)
    }

    /// Repetitions of a test, timed or not.
    fn num_runs(&self, case: &TestCase) -> usize {
        self.num_warmups(case) + self.settings.repetitions + usize::from(self.settings.trace)
    }

    /// The first training step allocates the moments of AdamW, the second what those displaced.
    fn num_warmups(&self, case: &TestCase) -> usize {
        match case.test {
            _ if !self.settings.warmup => 0,
            Test::Inference { .. } => 1,
            Test::Train { .. } => 2,
        }
    }

    /// Warms up, times, and traces if asked to.
    fn time(&self, case: &TestCase, run: &mut dyn FnMut() -> RunTime) -> Timed {
        let begun = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        for _ in 0..self.num_warmups(case) {
            run();
        }
        let mut samples = Samples::default();
        let meter = self.energy.as_ref().and_then(EnergyCounter::start);
        for index in 1..=self.settings.repetitions {
            (self.watch)(Progress::Repetition { case, index, of: self.settings.repetitions });
            let time = run();
            samples.total_ns.push(time.total_ns);
            samples.first_ns.extend(time.first_ns);
        }
        let energy_j = meter.and_then(|meter| meter.joules());
        Timed { begun, samples, energy_j, spans: self.settings.trace.then(|| trace::record(self.device, run).1) }
    }
}

/// The times of a test.
struct Timed {
    /// RFC 3339.
    begun: String,
    samples: Samples,
    energy_j: Option<f64>,
    spans: Option<Vec<Span>>,
}

/// Computes once on the largest pool, so that the kernels start as many helper threads as any test needs.
fn wake(model: &AnyDecoder, device: &Device) {
    let test = InferenceTest { n_prompt: 0, n_gen: 1, n_depth: 0, batch_size: 1 };
    InferenceRuns::new(model, test, device).run();
}

fn inference(case: &TestCase) -> Option<InferenceTest> {
    match case.test {
        Test::Inference { n_prompt, n_gen, n_depth } => {
            Some(InferenceTest { n_prompt, n_gen, n_depth, batch_size: case.batch_size })
        }
        Test::Train { .. } => None,
    }
}

/// Tokens per sequence of a training step.
fn training(case: &TestCase) -> Option<usize> {
    match case.test {
        Test::Train { n_train } => Some(n_train),
        Test::Inference { .. } => None,
    }
}
