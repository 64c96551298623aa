//! Messages between the HTTP side and the computing thread.

use tokio::sync::mpsc::UnboundedSender;

use crate::generate::{ComputedPrompt, Delta, FinishReason, GenerateError, Request};

/// Texts to compute for one client.
#[derive(Debug)]
pub struct Job {
    /// Requests of one prompt each. Their sequences are numbered in this order.
    pub requests: Vec<Request>,
    /// Strings that end a text.
    pub stop: Vec<String>,
    /// Where news go. If it is closed, the texts are given up.
    pub reply: UnboundedSender<Update>,
}

/// News of a text of a job.
#[derive(Debug)]
pub enum Update {
    /// The text with this number begins.
    Prompt(usize, ComputedPrompt),
    /// More of the text with this number.
    Delta(usize, Delta),
    /// The text with this number has ended, after as many tokens.
    Finished(usize, FinishReason, usize),
    /// The job cannot be done.
    Failed(GenerateError),
}
