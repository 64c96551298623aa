//! Answers all requests of a plan, with a log from which an interrupted run goes on.

use std::ops::Add;
use std::time::Instant;

use burn::tensor::Device;
use serde::Serialize;

use super::answer_log::AnswerLog;
use super::error::EvalError;
use super::scoring::{Answer, EncodedRequest, Limits, Plan, Progress, Scorer};
use crate::model::CausalLm;
use crate::trace::executed_flops;

/// The cost of answering. Answers from a log cost nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Seconds from the first pass to the last.
    pub wall_s: f64,
    /// Tokens that the model computed, without padding.
    pub num_computed_tokens: usize,
    /// Tokens of all requests, had each been computed on its own: those of the log too, and of open questions the prompts.
    pub num_request_tokens: usize,
    /// Floating-point operations of the matrix products, padding included.
    pub flops: u64,
    /// Requests whose answers were in the log.
    pub num_resumed: usize,
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            wall_s: self.wall_s + other.wall_s,
            num_computed_tokens: self.num_computed_tokens + other.num_computed_tokens,
            num_request_tokens: self.num_request_tokens + other.num_request_tokens,
            flops: self.flops + other.flops,
            num_resumed: self.num_resumed + other.num_resumed,
        }
    }
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunProgress {
    /// Tokens that a pass has computed.
    pub num_tokens: usize,
    /// Tokens that the run computes in all.
    pub num_total_tokens: usize,
}

/// The answers to the distinct requests of a plan. Those in the log are taken from it, others are appended to it after the pass
/// that gave them. `watch` is called after each pass.
///
/// # Errors
/// Those of the log, and those of `watch`.
///
/// # Panics
/// As [`Scorer::run`].
pub fn answer_all<M: CausalLm>(
    model: &M,
    plan: &Plan,
    mut log: Option<&mut AnswerLog>,
    limits: Limits,
    device: &Device,
    watch: &mut dyn FnMut(RunProgress) -> Result<(), EvalError>,
) -> Result<(Vec<Answer>, Cost), EvalError> {
    let keys: Vec<String> = match log {
        Some(_) => plan.requests().iter().map(EncodedRequest::key).collect(),
        None => Vec::new(),
    };
    let mut answers: Vec<Option<Answer>> = vec![None; plan.requests().len()];
    if let Some(log) = &log {
        answers = keys.iter().map(|key| log.answer(key)).collect();
    }
    let known = answers.clone();
    let is_open = |request: usize| known[request].is_none();
    let scorer = Scorer::new(model, plan, &is_open, limits, device);
    let num_total_tokens = scorer.num_tokens();
    let start = Instant::now();
    let mut take = |progress: Progress<'_>| {
        let Progress { num_tokens, answered } = progress;
        answered.iter().for_each(|(request, answer)| answers[*request] = Some(*answer));
        if let Some(log) = &mut log {
            // JSON has no infinities; such an answer is computed again.
            let finite = answered.iter().filter(|(_, answer)| answer.log_likelihood.is_finite());
            log.append(finite.map(|(request, answer)| (keys[*request].clone(), *answer)))?;
        }
        watch(RunProgress { num_tokens, num_total_tokens })
    };
    let (run, flops) = executed_flops(|| scorer.run(&mut take));
    run?;
    let cost = Cost {
        wall_s: start.elapsed().as_secs_f64(),
        num_computed_tokens: num_total_tokens,
        num_request_tokens: plan.num_tokens(),
        flops,
        num_resumed: known.iter().flatten().count(),
    };
    Ok((answers.into_iter().map(|answer| answer.expect("every request ends in a pass")).collect(), cost))
}
