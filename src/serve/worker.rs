//! The thread that computes.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;

use super::{Job, Metrics, Update};
use crate::generate::{Engine, Progress, SequenceId};
use crate::model::CausalLm;

/// Takes jobs from a queue and continues the texts of all of them in one batch.
#[derive(Debug)]
pub struct Worker<'a, M> {
    engine: Engine<'a, M>,
    metrics: &'a Metrics,
    /// By the number of the request.
    replies: BTreeMap<u64, Reply>,
}

/// Where the news of a request go.
#[derive(Debug)]
struct Reply {
    updates: UnboundedSender<Update>,
    /// The number of the request's first text in its job.
    first: usize,
    num_left: usize,
    /// Of each text, tokens that the metrics have.
    num_counted: Vec<usize>,
}

impl<'a, M: CausalLm> Worker<'a, M> {
    /// A worker without jobs.
    pub fn new(engine: Engine<'a, M>, metrics: &'a Metrics) -> Self {
        Self { engine, metrics, replies: BTreeMap::new() }
    }

    /// Works until no one can send jobs any more and all of them are done.
    pub fn run(&mut self, jobs: &Receiver<Job>) {
        loop {
            // Waits for a job only if there is nothing else to do.
            let mut next = match self.engine.is_idle() {
                true => jobs.recv().map_err(|_| TryRecvError::Disconnected),
                false => jobs.try_recv(),
            };
            while let Ok(job) = next {
                self.begin(job);
                next = jobs.try_recv();
            }
            if self.engine.is_idle() && matches!(next, Err(TryRecvError::Disconnected)) {
                return;
            }
            self.step();
            // After a step, since a thread without texts waits for the next job.
            self.give_up_closed();
        }
    }

    fn begin(&mut self, job: Job) {
        let mut first = 0;
        for request in job.requests {
            let (num_left, num_prompt) = (request.num_sequences, request.prompt.len());
            match self.engine.submit(request, job.stop.clone()) {
                Ok(number) => {
                    let num_counted = vec![0; num_left];
                    self.replies.insert(number, Reply { updates: job.reply.clone(), first, num_left, num_counted });
                    self.metrics.prompt_tokens.fetch_add(num_prompt as u64, Ordering::Relaxed);
                }
                Err(error) => {
                    // A client that has hung up does not hear it.
                    let _closed = job.reply.send(Update::Failed(error));
                }
            }
            first += num_left;
        }
    }

    /// Gives up the texts of clients that have hung up.
    fn give_up_closed(&mut self) {
        let closed: Vec<u64> =
            self.replies.iter().filter(|(_, reply)| reply.updates.is_closed()).map(|(number, _)| *number).collect();
        for number in closed {
            self.engine.cancel(number);
            self.replies.remove(&number);
            self.metrics.cancelled.fetch_add(1, Ordering::Relaxed);
        }
        // If these were the last texts, no step follows to update the counts.
        self.count();
    }

    /// Updates the gauges of running and waiting texts.
    fn count(&self) {
        self.metrics.running.store(self.engine.num_running() as u64, Ordering::Relaxed);
        self.metrics.waiting.store(self.engine.num_waiting() as u64, Ordering::Relaxed);
    }

    fn step(&mut self) {
        let Self { engine, metrics, replies } = self;
        let start = Instant::now();
        engine.step(&mut |SequenceId { request, index }, progress| {
            let Some(reply) = replies.get_mut(&request) else { return ControlFlow::Break(()) };
            let text = reply.first + index;
            let update = match progress {
                Progress::Prompt(prompt) => {
                    // All texts of a request continue one prompt.
                    let num_cached = if index == 0 { prompt.num_cached } else { 0 };
                    metrics.cached_prompt_tokens.fetch_add(num_cached as u64, Ordering::Relaxed);
                    Update::Prompt(text, prompt)
                }
                Progress::Delta(delta) => {
                    reply.num_counted[index] += delta.tokens.len();
                    metrics.generated_tokens.fetch_add(delta.tokens.len() as u64, Ordering::Relaxed);
                    Update::Delta(text, delta)
                }
                Progress::Finished { reason, num_tokens } => {
                    reply.num_left -= 1;
                    // Those without text, such as the one that ends a text.
                    let num_rest = num_tokens.saturating_sub(reply.num_counted[index]);
                    metrics.generated_tokens.fetch_add(num_rest as u64, Ordering::Relaxed);
                    Update::Finished(text, reason, num_tokens)
                }
                Progress::Failed(error) => {
                    reply.num_left -= 1;
                    Update::Failed(error)
                }
            };
            match reply.updates.send(update) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        });
        replies.retain(|_, reply| reply.num_left > 0);
        metrics.step(start.elapsed());
        self.count();
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::config::DecoderConfig;
    use crate::generate::{BatchSettings, Request};
    use crate::model::AnyDecoder;
    use crate::tokenizer::Tokenizer;
    use crate::weights::MemoryWeights;

    #[test]
    fn texts_of_a_client_that_hung_up_are_not_counted_as_running() {
        let device = Device::flex();
        let config = DecoderConfig::pico();
        let words: Vec<String> = (0..config.vocab_size).map(|id| format!("w{id}")).collect();
        let tokenizer = Tokenizer::word_level(&words);
        let model = AnyDecoder::load(&MemoryWeights::untrained(config, 0.2, 1), &device).unwrap();
        let settings = BatchSettings { max_sequences: 2, context: 64 };
        let metrics = Metrics::default();
        let mut worker = Worker::new(Engine::new(&model, &tokenizer, settings, &device), &metrics);
        let (reply, updates) = unbounded_channel();
        worker.begin(Job { requests: vec![Request::new(vec![1, 2])], stop: Vec::new(), reply });
        worker.step();
        let counts = || (metrics.running.load(Ordering::Relaxed), metrics.cancelled.load(Ordering::Relaxed));
        assert_eq!(counts(), (1, 0));
        drop(updates);
        worker.give_up_closed();
        assert_eq!(counts(), (0, 1));
        assert!(worker.engine.is_idle());
    }
}
