//! `bench`: how fast a model runs, with the options and the output of llama.cpp's llama-bench.
//!
//! Everything that headers can tell is checked for every model before the first is loaded. Results go to stdout, each as
//! soon as it exists, and nothing else does.

mod args;
mod peer;
mod sizes;

pub(super) use self::args::num_cores;
pub use args::{BenchArgs, OutputArg};
pub use peer::{PeerArgs, spelled};
pub use sizes::Sizes;
pub(super) use sizes::{counts, one_count, sizes, train_size};

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::ProgressBar;

use super::exit::finish;
use super::failure::Failure;
use super::opened::OpenedModel;
use super::run_info::run_info;
use super::{console, output};
use crate::bench::{Bench, BenchRun, Note, Pools, Printer, Progress, Settings, Subject, Target};
use crate::device::{device, is_cpu};
use crate::kernel::{attention, linear};
use crate::output::commit::write_file_atomically;
use crate::profile::energy::EnergyCounter;
use crate::report::build_number;
use crate::trace::to_chrome_json;

/// Measures every model and prints what it finds; what was measured before a failure is printed too.
///
/// A failure is a JSON object with `-o json` and `-o jsonl`, unless an array of records has begun.
pub fn run(args: &BenchArgs) -> ExitCode {
    let mut printer = None;
    let result = measure(args, &mut printer);
    let in_array = printer.is_some_and(|printer: Printer| !printer.is_empty());
    finish(
        result,
        match args.output {
            OutputArg::Json => !in_array,
            OutputArg::Jsonl => true,
            OutputArg::Md | OutputArg::Csv | OutputArg::Sql => false,
        },
    )
}

fn measure(args: &BenchArgs, printer: &mut Option<Printer>) -> Result<(), Failure> {
    let cases = args.grid()?.cases()?;
    for note in args.peer.notes()? {
        console::tell(format_args!("note: {note}"));
    }
    args.trace.as_deref().map_or(Ok(()), can_be_written)?;
    let (most, cores) = (cases.iter().map(|case| case.n_threads).max().unwrap_or(0), num_cores());
    if most > cores {
        console::tell(format_args!("warning: {most} threads on {cores} cores"));
    }
    let pools = Pools::new(&cases)?;
    pools.run(|| {
        let device = device(&args.weights.device)?;
        let opened = args.all_models().map(|model| OpenedModel::new(model, Some(&args.growth)));
        let opened = opened.collect::<Result<Vec<_>, Failure>>()?;
        let grown = opened.iter().map(OpenedModel::growth).collect::<Result<Vec<_>, Failure>>()?;
        let is_grown = !args.growth.options().is_empty();
        let experts_differ = [args.growth.noise, args.growth.drop].into_iter().flatten().any(|size| size > 0.0);
        let targets = opened.iter().zip(&grown).map(|(opened, grown)| {
            let subject = Subject {
                name: opened.name(),
                checkpoint: opened.checkpoint(),
                source: &grown.source,
                growth: if is_grown { grown.title() } else { String::new() },
                keeps_formats: !experts_differ && args.growth.granularity.is_none(),
            };
            Ok(Target::new(subject, args.weights.precision(), &cases, &device)?)
        });
        let targets = targets.collect::<Result<Vec<_>, Failure>>()?;
        let info = run_info(&args.weights.device, "");
        let run = BenchRun {
            commit: info.commit.unwrap_or_default(),
            build_number: build_number().unwrap_or(0),
            cpu_info: info.cpu,
            device: info.device,
            on_gpu: !is_cpu(&args.weights.device),
            fuses_attention: attention::has_kernel(&device),
            keeps_bfloat16: linear::keeps_bfloat16(&device),
        };
        let progress = ProgressLine::new(args.progress);
        let settings = Settings {
            repetitions: args.repetitions,
            warmup: !args.no_warmup,
            trace: args.trace.is_some(),
            delay: Duration::from_secs(args.delay.into()),
        };
        let watch = |event: Progress<'_>| progress.show(event);
        let energy = EnergyCounter::of(&device);
        let bench = Bench { cases: &cases, pools: &pools, device: &device, energy, run: &run, settings, watch: &watch };
        let with_sequences = cases.iter().any(|case| case.batch_size != 1);
        let printer = printer.insert(Printer::new(args.output.format(), is_grown, with_sequences));
        let mut traces = Vec::new();
        let measured = targets.iter().try_for_each(|target| -> Result<(), Failure> {
            notes(target);
            traces.extend(bench.measure(target, &mut |record| progress.print(&printer.record(record)))?);
            Ok(())
        });
        output::print(&printer.footer())?;
        measured?;
        match &args.trace {
            Some(path) => {
                let tracks = traces.iter().map(|(name, spans)| (name.as_str(), spans.as_slice()));
                Ok(write_file_atomically(path, to_chrome_json(tracks).as_bytes())?)
            }
            None => Ok(()),
        }
    })
}

fn notes(target: &Target<'_>) {
    for note in target.notes() {
        let tip = if matches!(note, Note::SharedExperts { .. }) { "; --noise makes them differ" } else { "" };
        console::tell(format_args!("note: {}: {note}{tip}", target.name()));
    }
}

/// Looks whether a file can be made in its folder, before anything is measured for it.
fn can_be_written(path: &Path) -> Result<(), Failure> {
    if path.is_dir() {
        return Err(Failure::writing(path)(std::io::ErrorKind::IsADirectory.into()));
    }
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tempfile::tempfile_in(folder).map(|_| ()).map_err(Failure::writing(path))
}

/// Progress on stderr: a spinner on a terminal, with `--progress` a line per test.
struct ProgressLine {
    /// Moved between repetitions alone: a bar that ticks would take time from the kernels.
    bar: Option<ProgressBar>,
    lines: bool,
}

impl ProgressLine {
    fn new(lines: bool) -> Self {
        Self { bar: console::shows_bars().then(ProgressBar::new_spinner), lines }
    }

    fn show(&self, event: Progress<'_>) {
        let message = match event {
            Progress::Loading(name) => format!("{name}: loading"),
            Progress::Begin { case, index, num_cases } => {
                let message = format!("test {index}/{num_cases}: {}", case.name());
                if self.lines {
                    self.suspended(|| console::tell(&message));
                }
                message
            }
            Progress::Repetition { case, index, of } => format!("{}: {index}/{of}", case.name()),
        };
        if let Some(bar) = &self.bar {
            bar.set_message(message);
            bar.tick();
        }
    }

    /// Prints to stdout, which may be the same terminal.
    fn print(&self, text: &str) -> Result<(), Failure> {
        self.suspended(|| output::print(text))
    }

    fn suspended<R>(&self, work: impl FnOnce() -> R) -> R {
        match &self.bar {
            Some(bar) => bar.suspend(work),
            None => work(),
        }
    }
}
