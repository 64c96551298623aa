//! The test suite: one binary, a module a subject.

mod architecture;
mod bad_checkpoints;
mod oracle;
mod pico;
mod plan_algebra;
mod published_numbers;
mod transformers;
