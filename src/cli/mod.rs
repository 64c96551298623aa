//! The commands: arguments in, files and a table out, an exit code for each kind of failure.
//!
//! Only this module, `main` and the experiments read the command line or the environment. Results go to stdout,
//! everything else to stderr. Every input is checked before anything is written.

mod adapter;
pub mod bench;
pub mod compare;
pub mod compare_scores;
pub mod completions;
mod console;
mod counters;
pub mod doctor;
pub mod eval;
mod exit;
mod failure;
pub mod generate;
mod gpu_layers;
pub mod grow;
pub mod hub;
pub mod inspect;
mod interrupt;
mod llama_spelling;
pub mod man;
pub mod merge_lora;
mod model;
mod opened;
mod output;
pub mod perplexity;
pub mod plot;
pub mod profile;
pub mod profile_study;
mod progress;
mod run_info;
pub mod serve;
mod threads;
pub mod tokenize;
pub mod train;
mod values;
pub mod verify;
mod weights;
mod writing;

pub use console::Verbosity;
pub use exit::finish;
pub use failure::Failure;
pub use llama_spelling::llama_spelled;
pub use run_info::run_info;
pub use values::DtypeArg;
