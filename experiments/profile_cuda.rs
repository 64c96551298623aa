//! Where do FLOPs, bytes, time and memory go, dense, deep and wide?
//!
//! Question: what do a base, its depth-up-scaled partner of equal FLOPs and its mixture of experts cost on a GPU, by module, over
//! time, and against batch and context?
//! Method: random weights of one shape; FLOPs and bytes counted from the configs and checked where they are executed, times in turns,
//! memory on the heap or in the pool of the device, peaks measured at the start.
//! Result: `results.json` and the figures `modules`, `roofline`, `memory` and `speed`; those of a CPU are in `figures/profile`.
//!
//! `cargo run --features cuda --example profile_cuda` needs a GPU; `cargo run --example profile_cuda -- --device flex` none.

use std::process::ExitCode;

use clap::Parser;
use deepwide::cli::{finish, profile_study};
use deepwide::profile::heap::{COUNTING, CountingAllocator};

#[global_allocator]
static HEAP: &CountingAllocator = &COUNTING;

#[derive(Debug, Parser)]
#[command(name = "profile_cuda", version)]
struct Cli {
    #[command(flatten)]
    profile: profile_study::ProfileStudyArgs,
}

fn main() -> ExitCode {
    finish(profile_study::run(&Cli::parse().profile), false)
}
