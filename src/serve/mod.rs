//! A server with OpenAI's API over one model.
//!
//! One thread computes: a [`Worker`] takes requests from a queue and continues all of them in one batch. A runtime of one
//! thread speaks HTTP: it checks and tokenizes requests, and turns news of texts into JSON. A client that hangs up or stalls
//! takes its texts out of the batch.

mod answer;
mod api_error;
mod body;
mod chat_body;
mod completion_body;
mod connection;
mod echo;
mod fields;
mod helpers;
mod http;
mod job;
mod logprobs;
mod metrics;
mod served;
mod stream;
mod texts;
mod worker;

pub use answer::{AnswerHeader, ChoiceNews, Endpoint, Usage, unix_time_s};
pub use api_error::ApiError;
pub use http::{ServeError, serve};
pub use job::{Job, Update};
pub use logprobs::{chat_logprobs, completion_logprobs};
pub use metrics::Metrics;
pub use served::{Limits, Served};
pub use worker::Worker;
