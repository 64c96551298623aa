//! What is told on stderr beside results: more or less of it, as asked.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use clap::Args;

/// How much is told on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args)]
pub struct Verbosity {
    /// Tell also where each model was found and how long each step took
    #[arg(long, short, global = true, conflicts_with = "quiet", help_heading = "Global options")]
    pub verbose: bool,
    /// No progress and no notices on stderr, only what went wrong
    #[arg(long, short, global = true, help_heading = "Global options")]
    pub quiet: bool,
}

const QUIET: u8 = 0;
const USUAL: u8 = 1;
const VERBOSE: u8 = 2;

/// Of the process.
static LEVEL: AtomicU8 = AtomicU8::new(USUAL);

impl Verbosity {
    /// Makes it that of the process.
    pub fn apply(self) {
        let level = match (self.quiet, self.verbose) {
            (true, _) => QUIET,
            (_, true) => VERBOSE,
            _ => USUAL,
        };
        LEVEL.store(level, Ordering::Relaxed);
    }
}

/// Whether progress and notices are told.
pub(super) fn tells() -> bool {
    LEVEL.load(Ordering::Relaxed) != QUIET
}

/// Whether progress is told by bars: only to a terminal.
pub(super) fn shows_bars() -> bool {
    tells() && io::stderr().is_terminal()
}

/// What went wrong.
pub(super) fn fail(line: impl Display) {
    // Where nobody can be told, the exit code says it.
    let _nobody_listens = writeln!(io::stderr(), "{line}");
}

/// A line of progress, or a notice.
pub(super) fn tell(line: impl Display) {
    if tells() {
        fail(line);
    }
}

/// A line for who wants to know more.
pub(super) fn detail(line: impl Display) {
    if LEVEL.load(Ordering::Relaxed) == VERBOSE {
        fail(line);
    }
}

/// Does a step, and tells as a detail how long it took.
pub(super) fn timed<T>(step: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    detail(format_args!("{step}: {:.2} s", start.elapsed().as_secs_f64()));
    done
}
