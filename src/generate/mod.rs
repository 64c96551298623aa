//! Generation: sequences of tokens from prompts, many at once.
//!
//! - [`Batch`] continues token sequences over one ragged cache; sequences join and leave while others go on.
//! - [`Engine`] adds text: incremental decoding, stop strings, one [`Output`] per sequence.
//! - [`Sampling`] says how the next token is chosen from logits.
//!
//! A sequence has the same tokens at any number of sequences and threads: prompts are computed alone, a row of a pass has
//! the bits that it has alone, and random numbers depend on seed, sequence and position only.

mod batch;
mod chosen;
mod detokenizer;
mod engine;
mod error;
mod finish;
mod logprobs;
mod output;
mod penalties;
mod prefill;
mod prompt;
mod prompt_cache;
mod request;
mod sampler;
mod sampling;
mod sequence;
mod slots;
mod stop;
mod text_model;

pub use batch::{Batch, BatchSettings, Listener, MAX_SEQUENCES};
pub use chosen::{Chosen, ComputedPrompt, Event, SequenceId};
pub use detokenizer::Detokenizer;
pub use engine::{Engine, Progress, TextListener};
pub use error::GenerateError;
pub use finish::FinishReason;
pub use logprobs::{PromptLogprobs, TokenLogprob, log_sum_exp, token_logprob};
pub use output::{Delta, Output, TokenText};
pub use prompt::{prompt_ids, prompt_ids_with_starts};
pub use request::Request;
pub use sampler::{Sampler, argmax};
pub use sampling::{Sampling, SamplingFault, SamplingFields, fresh_seed};
pub use stop::StopStrings;
pub use text_model::TextModel;
