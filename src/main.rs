//! The `deepwide` command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use deepwide::cli::{bench, compare, finish, grow, inspect, verify};
use deepwide::profile::heap::{COUNTING, CountingAllocator};

#[global_allocator]
static HEAP: &CountingAllocator = &COUNTING;

/// Grow a pretrained decoder language model deep or wide, and measure which pays.
///
/// Exit codes: 0 done, 1 run-time failure, 2 usage, 3 bad or unsupported configuration or file, 4 input not found, 5 a
/// check failed, 6 too large for the memory, 128 and the number of the signal that ended it (130 interrupt, 143 termination).
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Grow(Box<grow::GrowArgs>),
    Inspect(inspect::InspectArgs),
    Verify(verify::VerifyArgs),
    Bench(Box<bench::BenchArgs>),
    Compare(Box<compare::CompareArgs>),
}

fn main() -> ExitCode {
    match Cli::parse_from(bench::BenchArgs::words(std::env::args_os())).command {
        Command::Grow(args) => finish(grow::run(&args), args.json),
        Command::Inspect(args) => finish(inspect::run(&args), args.json),
        Command::Verify(args) => finish(verify::run(&args), args.json),
        Command::Bench(args) => finish(bench::run(&args), false),
        Command::Compare(args) => finish(compare::run(&args), args.json),
    }
}
