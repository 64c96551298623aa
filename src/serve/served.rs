//! The served model and the limits of requests.

use std::time::Duration;

use crate::tokenizer::{ChatTemplate, Tokenizer};

/// Limits of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Texts computed at once.
    pub parallel: usize,
    /// Requests that wait, beyond those that are computed; more are refused with status 503.
    pub queue: usize,
    /// Tokens of a prompt and its output together.
    pub context: usize,
    /// Tokens of an output at most.
    pub max_tokens: usize,
    /// Size of a request's body.
    pub body_bytes: usize,
    /// How long a client may take to send a request, or pause in reading an answer.
    pub timeout: Duration,
}

/// A model as clients see it, without its weights.
#[derive(Debug)]
pub struct Served {
    /// Its name in answers.
    pub name: String,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its chat template, if there is one.
    pub template: Option<ChatTemplate>,
    /// Rows of its embedding table.
    pub vocab_size: usize,
    /// Layers with experts; 0 if it is dense.
    pub num_sparse_layers: usize,
    /// Experts of a layer.
    pub num_experts: usize,
    /// Limits of the server.
    pub limits: Limits,
    /// Clients have to send this key, if there is one.
    pub api_key: Option<String>,
    /// Seconds since the epoch, when the server started.
    pub created: u64,
}
