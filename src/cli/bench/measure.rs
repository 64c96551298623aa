//! Test after test of one model after the other.

use std::collections::BTreeMap;
use std::time::SystemTime;

use burn::tensor::Device;
use indicatif::ProgressBar;
use rayon::ThreadPool;

use super::super::console;
use super::super::failure::Failure;
use super::target::Target;
use super::{BenchArgs, BenchError};
use crate::model::CausalLm;
use crate::profile::flops::train_flops;
use crate::profile::system_memory::peak_rss_bytes;
use crate::profile::throughput::{InferenceRuns, InferenceTest, RunTime, train_runs};
use crate::report::bench::{BenchModel, BenchRecord, BenchRun, Measured, Samples, Test, TestCase};
use crate::trace::{self, Span};

/// What all tests share.
pub(super) struct Bench<'a, P> {
    cases: &'a [TestCase],
    pools: &'a BTreeMap<usize, ThreadPool>,
    device: &'a Device,
    run: &'a BenchRun,
    clock: Clock,
    print: P,
    traces: Vec<(String, Vec<Span>)>,
}

/// Repeats what is timed, and says so on a terminal.
struct Clock {
    repetitions: usize,
    warmup: bool,
    /// The device to trace on, if one more repetition is to be traced.
    traced_on: Option<Device>,
    bar: Option<ProgressBar>,
}

impl<'a, P: FnMut(&BenchRecord) -> Result<(), Failure>> Bench<'a, P> {
    pub fn new(
        args: &BenchArgs,
        cases: &'a [TestCase],
        pools: &'a BTreeMap<usize, ThreadPool>,
        device: &'a Device,
        run: &'a BenchRun,
        print: P,
    ) -> Self {
        // It moves between repetitions alone: a bar that ticks would take time from the kernels.
        let bar = console::shows_bars().then(ProgressBar::new_spinner);
        let traced_on = args.trace.is_some().then(|| device.clone());
        let clock = Clock { repetitions: args.repetitions, warmup: !args.no_warmup, traced_on, bar };
        Self { cases, pools, device, run, clock, print, traces: Vec::new() }
    }

    /// The traced repetition of each test so far, with a name for it; none unless asked for.
    pub fn into_traces(self) -> Vec<(String, Vec<Span>)> {
        self.traces
    }

    /// Loads a model, runs every test and prints it.
    ///
    /// # Errors
    /// What the source says; [`BenchError::Train`]; what printing meets.
    pub fn target(&mut self, target: &Target<'_>) -> Result<(), Failure> {
        let cases = self.cases;
        let inference = cases.iter().filter_map(|case| Some((*case, inference(case)?)));
        let training = cases.iter().filter_map(|case| Some((*case, training(case)?)));
        if inference.clone().next().is_some() {
            target.notice().into_iter().for_each(|notice| console::tell(format_args!("note: {notice}")));
            self.clock.show(&format!("{}: loading", target.name()));
            let mut model = target.load(self.device)?;
            let described = target.describe(&model);
            wake(&model, self.device);
            for (case, test) in inference {
                let (device, clock, test_time) = (self.device, &self.clock, now());
                let samples;
                (samples, model) = self.pools[&case.n_threads].install(move || {
                    let mut runs = InferenceRuns::new(&model, test, device);
                    let samples = clock.samples(case, &mut || runs.run());
                    drop(runs);
                    (samples, model)
                });
                self.print(&described, case, test_time, samples, test.flops(target.config()))?;
            }
        }
        if training.clone().next().is_some() {
            self.clock.show(&format!("{}: loading", target.name()));
            let device = self.device.clone().autodiff();
            let mut model = target.load_to_train(&device)?;
            let described = target.describe(&model);
            wake(&model, &device);
            for (case, n_train) in training {
                let (device, clock, test_time) = (&device, &self.clock, now());
                let num_steps = clock.num_runs(case);
                let samples;
                (samples, model) = self.pools[&case.n_threads]
                    .install(move || {
                        train_runs(model, case.batch_size, n_train, num_steps, device, |step| clock.samples(case, step))
                    })
                    .map_err(BenchError::Train)?;
                let flops = train_flops(target.config(), case.batch_size as u64, n_train as u64);
                self.print(&described, case, test_time, samples, flops)?;
            }
        }
        Ok(())
    }

    fn print(
        &mut self,
        model: &BenchModel,
        case: TestCase,
        test_time: String,
        (samples, spans): (Samples, Option<Vec<Span>>),
        flops: u128,
    ) -> Result<(), Failure> {
        let measured = Measured { test_time, samples, flops, peak_rss: peak_rss_bytes() };
        let record = BenchRecord::new(self.run, model, case, measured);
        let name = || format!("{} {} t{} b{}", model.kind, case.name(), case.n_threads, case.batch_size);
        self.traces.extend(spans.map(|spans| (name(), spans)));
        match &self.clock.bar {
            // Both may be the same terminal.
            Some(bar) => bar.suspend(|| (self.print)(&record)),
            None => (self.print)(&record),
        }
    }
}

impl Clock {
    /// Repetitions of a test, all in all.
    fn num_runs(&self, case: TestCase) -> usize {
        self.num_warmups(case) + self.repetitions + usize::from(self.traced_on.is_some())
    }

    /// The first training step makes the moments of AdamW, and the second finds memory for what they took the place of.
    fn num_warmups(&self, case: TestCase) -> usize {
        match case.test {
            _ if !self.warmup => 0,
            Test::Inference { .. } => 1,
            Test::Train { .. } => 2,
        }
    }

    /// Warms up, times, and traces if it is to.
    fn samples(&self, case: TestCase, run: &mut dyn FnMut() -> RunTime) -> (Samples, Option<Vec<Span>>) {
        for _ in 0..self.num_warmups(case) {
            self.show(&format!("{}: warming up", case.name()));
            run();
        }
        let mut samples = Samples::default();
        for repetition in 1..=self.repetitions {
            self.show(&format!("{}: {repetition}/{}", case.name(), self.repetitions));
            let time = run();
            samples.total_ns.push(time.total_ns);
            samples.first_ns.extend(time.first_ns);
        }
        (samples, self.traced_on.as_ref().map(|device| trace::record(device, run).1))
    }

    fn show(&self, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(message.to_owned());
            bar.tick();
        }
    }
}

/// Lets the kernels start their helpers while the largest pool is the one that they see.
fn wake<M: CausalLm>(model: &M, device: &Device) {
    let test = InferenceTest { n_prompt: 0, n_gen: 1, n_depth: 0, batch_size: 1 };
    InferenceRuns::new(model, test, device).run();
}

/// A test of inference.
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

fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}
