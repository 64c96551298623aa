//! **deepwide** grows a pretrained decoder language model deep (depth up-scaling, DUS: SOLAR) or wide (sparse mixture of
//! experts: Mixtral, by sparse upcycling), and measures which pays off: quality, FLOPs, memory and latency at matched cost.
//!
//! # Data flow
//!
//! ```text
//! files ─▶ formats ─▶ growth ─▶ model ─┬▶ train    ─▶ (model, log) ─┐
//!                                      ├▶ eval     ─▶ scores       ─┼▶ study ─▶ report ─▶ figure
//!                                      ├▶ generate ─▶ text          │
//!                                      └▶ profile  ─▶ cost, time   ─┘
//! ```
//!
//! | module | contents |
//! |---|---|
//! | [`config`] | the checked shape of a decoder; presets by published name |
//! | [`weights`] | [`WeightSource`](weights::WeightSource): named tensors, in memory or in files |
//! | [`lora`] | low-rank adapters: which matrices they update, and by what |
//! | [`formats`] | Hugging Face directories, safetensors, GGUF: reading and writing |
//! | [`output`] | atomic writes to disk, receipts of written checkpoints |
//! | [`hub`] | files of the Hugging Face Hub, in the cache that Python uses |
//! | [`growth`] | plans that view a source as a deeper or wider one, without touching a weight |
//! | [`kernel`] | the operations that decide speed, each beside its reference |
//! | [`device`], [`trace`] | devices by name; spans that show where the time of a pass goes |
//! | [`load`] | weights of a source as parameters, and the memory that they take |
//! | [`model`] | the decoder, dense or sparse, behind [`CausalLm`](model::CausalLm) |
//! | [`python`] | strings, floats and random numbers as CPython has them |
//! | [`tokenizer`], [`data`] | text and the built-in synthetic language, as windows of token ids |
//! | [`generate`] | text from prompts: continuous batching, sampling, stopping |
//! | [`serve`] | a server with OpenAI's API |
//! | [`train`], [`eval`], [`profile`] | training; losses and comparisons; FLOPs, memory and speed |
//! | [`bench`](mod@bench) | speed measurements, as llama-bench makes and prints them |
//! | [`upscale`] | a checkpoint grown from a request: sources, view, forecast, check |
//! | [`study`] | arms grown from one base, trained at matched FLOPs, measured alike |
//! | [`report`], [`figure`] | records of a study; the table, the verdict and the figures made from them |
//! | [`finetune`] | training from files to files: runs, checkpoints, exact resume |
//! | [`cli`] | the commands: arguments, output, exit codes |
//! | [`error`] | what all error types share |
//!
//! # Invariants
//!
//! - A stage takes values and returns values. A module uses only modules before it in the flow; a test holds the table.
//! - Growth is a view: a model is loaded from it, never modified, so no two layers share a parameter.
//! - Dense and sparse decoders differ in one type parameter.
//! - Input is checked once, at the boundary, and becomes a type that cannot hold an invalid value.
//! - The backend is a [`Device`](burn::tensor::Device), chosen at run time among those compiled in.

pub mod bench;
pub mod cli;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod eval;
pub mod figure;
pub mod finetune;
pub mod formats;
pub mod generate;
pub mod growth;
pub mod hub;
pub mod kernel;
pub mod load;
pub mod lora;
pub mod model;
pub mod output;
pub mod profile;
pub mod python;
pub mod report;
pub mod serve;
pub mod study;
pub mod tokenizer;
pub mod trace;
pub mod train;
pub mod upscale;
pub mod weights;

/// The examples of the README, compiled and run by the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
