//! The test suite: one binary, a module a subject.

mod architecture;
mod bad_inputs;
mod compare;
mod counting;
mod decoding;
mod grow;
mod growth_in_models;
mod models;
mod oracle;
mod pico;
mod plan_algebra;
mod published_numbers;
mod training;
mod transformers;
