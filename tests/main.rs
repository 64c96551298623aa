//! The test suite: one binary, a module a subject.

mod architecture;
mod bad_inputs;
mod bad_merge_configs;
mod bench;
mod command_line;
mod compare;
mod counting;
mod decoding;
mod gguf_read;
mod gguf_vocabularies;
mod gguf_written;
mod grow;
mod growth_in_models;
mod hub;
mod linear_door;
mod mergekit_bytes;
mod models;
mod oracle;
mod pico;
mod plan_algebra;
mod precision;
mod published_numbers;
mod quantized;
mod ragged;
mod training;
mod transformers;
