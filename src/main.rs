//! The `deepwide` command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use deepwide::cli::{compare, finish};
use deepwide::profile::heap::{COUNTING, CountingAllocator};

#[global_allocator]
static HEAP: &CountingAllocator = &COUNTING;

/// Grow a pretrained decoder language model deep or wide, and measure which pays.
///
/// Exit codes: 0 done, 1 run-time failure, 2 usage, 3 bad or unsupported configuration or file, 4 input not found.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Compare(Box<compare::CompareArgs>),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Compare(args) => finish(compare::run(&args), args.json),
    }
}
