//! How fast a model runs: prefill, decoding and whole training steps, measured and recorded as llama.cpp's llama-bench
//! does.
//!
//! [`Grid::cases`] gives the tests, [`Target::new`] opens a model and checks every test against it before anything is
//! loaded, [`Bench::measure`] loads it and runs them, and a [`Printer`] writes each [`BenchRecord`] as soon as it exists.

mod case;
mod error;
mod measure;
mod printer;
mod record;
mod target;

pub use case::{Grid, Test, TestCase};
pub use error::BenchError;
pub use measure::{Bench, Pools, Progress, Settings, Traces};
pub use printer::{Format, Printer};
pub use record::{BenchModel, BenchRecord, BenchRun, Measured, Samples};
pub use target::{Note, Subject, Target, default_precision};
