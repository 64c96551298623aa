//! The main job: deep or wide?
//!
//! Question: from one pretrained decoder, does depth up-scaling or an 8×top-2 mixture of experts gain more at equal
//! training FLOPs, and what does each cost to run?
//! Method: `deepwide compare` on the built-in base, or on any dense Hugging Face directory with `--base` and `--data`;
//! a dense continued-training control beside both; every arm sees the same windows in the same order.
//! Result: `figures/compare_dus_moe/results.md`, the figures beside it, and all raw samples in `results.json`.
//!
//! `cargo run --example compare_dus_moe` writes to `out/compare_dus_moe`, which git ignores. To redraw the committed record and
//! figures: `cargo run --example compare_dus_moe -- --out figures/compare_dus_moe`.

use std::process::ExitCode;

use clap::Parser;
use deepwide::cli::{compare, finish};
use deepwide::profile::heap::{COUNTING, CountingAllocator};

#[global_allocator]
static HEAP: &CountingAllocator = &COUNTING;

#[derive(Debug, Parser)]
#[command(name = "compare_dus_moe", version)]
struct Cli {
    #[command(flatten)]
    compare: compare::CompareArgs,
}

fn main() -> ExitCode {
    let args = Cli::parse().compare;
    finish(compare::run(&args), args.json)
}
