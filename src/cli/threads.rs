//! The number of threads of a command.

use clap::Args;

use super::failure::Failure;
use super::values::size;

/// `--threads`.
#[derive(Debug, Clone, Args)]
pub struct ThreadsArgs {
    /// Threads [default: all cores]
    #[arg(short = 't', long, value_name = "N", value_parser = size)]
    pub threads: Option<usize>,
}

impl ThreadsArgs {
    /// Runs `work` with this number of threads.
    ///
    /// # Errors
    /// If the system has no threads, and those of `work`.
    pub(super) fn run<R: Send>(&self, work: impl FnOnce() -> Result<R, Failure> + Send) -> Result<R, Failure> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads.unwrap_or(0)).build();
        pool.map_err(|error| Failure::runtime(error).for_option("--threads"))?.install(work)
    }
}
