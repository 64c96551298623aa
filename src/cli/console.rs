//! Messages on stderr, at the verbosity that the user asked for.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use clap::Args;

/// Verbosity of stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args)]
pub struct Verbosity {
    /// Print also where each model was found and how long each step took
    #[arg(long, short, global = true, conflicts_with = "quiet", help_heading = "Global options")]
    pub verbose: bool,
    /// Print only errors on stderr: no progress, no notices
    #[arg(long, short, global = true, help_heading = "Global options")]
    pub quiet: bool,
}

const QUIET: u8 = 0;
const USUAL: u8 = 1;
const VERBOSE: u8 = 2;

/// The verbosity of the process.
static LEVEL: AtomicU8 = AtomicU8::new(USUAL);

impl Verbosity {
    /// Sets it for the process.
    pub fn apply(self) {
        let level = match (self.quiet, self.verbose) {
            (true, _) => QUIET,
            (_, true) => VERBOSE,
            _ => USUAL,
        };
        LEVEL.store(level, Ordering::Relaxed);
    }
}

/// Whether progress and notices are printed.
pub(super) fn tells() -> bool {
    LEVEL.load(Ordering::Relaxed) != QUIET
}

/// Whether progress is shown by bars, which needs a terminal.
pub(super) fn shows_bars() -> bool {
    tells() && io::stderr().is_terminal()
}

/// Prints an error.
pub(super) fn fail(line: impl Display) {
    // If stderr is closed, the exit code remains.
    let _closed = writeln!(io::stderr(), "{line}");
}

/// Prints a line of progress or a notice.
pub(super) fn tell(line: impl Display) {
    if tells() {
        fail(line);
    }
}

/// Prints a line with `--verbose`.
pub(super) fn detail(line: impl Display) {
    if LEVEL.load(Ordering::Relaxed) == VERBOSE {
        fail(line);
    }
}

/// Runs a step and prints its duration with `--verbose`.
pub(super) fn timed<T>(step: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    detail(format_args!("{step}: {:.2} s", start.elapsed().as_secs_f64()));
    done
}
