//! `bench`: how fast a model runs, in the convention of llama.cpp's llama-bench.
//!
//! Whatever headers can tell is checked for every model before the first is loaded. Results go to stdout, each as soon as
//! it is there, and nothing else does.

mod args;
mod error;
mod measure;
mod target;
mod weights;

pub use args::{BenchArgs, OutputArg, QuantArg};
pub use error::BenchError;

use std::collections::BTreeMap;
use std::path::Path;

use rayon::ThreadPool;

use self::measure::Bench;
use self::target::Target;
use super::failure::Failure;
use super::run_info::run_info;
use super::{hub, output};
use crate::device::device;
use crate::formats::Checkpoint;
use crate::output::commit::write_file_atomically;
use crate::report::bench::{BenchRun, Printer};
use crate::trace::to_chrome_json;

/// Stack of the threads that compute: that of a main thread.
const STACK_BYTES: usize = 8 << 20;

/// Measures every model and prints what it finds.
///
/// # Errors
/// Whatever the arguments and the headers can tell before a model is loaded. What was measured before an
/// error is printed.
pub fn run(args: &BenchArgs) -> Result<(), Failure> {
    let cases = args.cases()?;
    if let Some(path) = &args.trace {
        can_be_written(path)?;
    }
    let mut pools = BTreeMap::new();
    for num_threads in args.threads() {
        pools.insert(num_threads, pool(num_threads)?);
    }
    // All work is done by the threads of a pool, and none but its own: the kernels ask the pool that they are called on.
    let (_, most) = pools.last_key_value().expect("there is a number of threads");
    most.install(|| {
        let device = device(&args.device)?;
        let paths = args.models.iter().map(|model| hub::locate(model)).collect::<Result<Vec<_>, _>>()?;
        let open = |path| Checkpoint::open_on(super::interrupt::disk(), path);
        let checkpoints = paths.iter().map(|path| open(path)).collect::<Result<Vec<_>, _>>()?;
        let targets = args
            .models
            .iter()
            .zip(&checkpoints)
            .map(|(name, checkpoint)| Target::new(name, checkpoint, args, &cases, &device))
            .collect::<Result<Vec<_>, _>>()?;
        let info = run_info(&args.device, "");
        let run = BenchRun {
            commit: info.commit.unwrap_or_default(),
            build_number: super::run_info::build_number().unwrap_or(0),
            cpu_info: info.cpu,
            device: info.device,
        };
        let with_batch = cases.iter().any(|case| case.batch_size != 1);
        let mut printer = Printer::new(args.output.format(), !args.growth.options().is_empty(), with_batch);
        let print = |record: &_| {
            let text = printer.record(record).map_err(|source| BenchError::Record { source })?;
            output::print(&text)
        };
        let mut bench = Bench::new(args, &cases, &pools, &device, &run, print);
        let measured = targets.iter().try_for_each(|target| bench.target(target));
        let traces = bench.into_traces();
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

/// Looks for the folder of a file before anything is measured for it.
fn can_be_written(path: &Path) -> Result<(), Failure> {
    if path.is_dir() {
        return Err(Failure::writing(path)(std::io::ErrorKind::IsADirectory.into()));
    }
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tempfile::tempfile_in(folder).map(|_| ()).map_err(Failure::writing(path))
}

fn pool(num_threads: usize) -> Result<ThreadPool, BenchError> {
    let builder = rayon::ThreadPoolBuilder::new().num_threads(num_threads).stack_size(STACK_BYTES);
    let named = builder.thread_name(|index| format!("bench {index}"));
    named.build().map_err(|source| BenchError::Threads { num_threads, source })
}
