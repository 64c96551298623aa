//! Continuous batching: token sequences that join and leave a ragged batch.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use burn::tensor::Device;
use rayon::prelude::*;

use super::prefill::{Prefill, heaviest, numbers};
use super::prompt_cache::PromptCache;
use super::sequence::Sequence;
use super::slots::Slots;
use super::{Chosen, ComputedPrompt, Event, GenerateError, Request, SequenceId};
use crate::model::{CausalLm, HiddenStates, TokenBatch};

/// Sequences of a pass at most. A product of more rows is summed in another order, and a sequence would not have the bits that
/// it has alone.
pub const MAX_SEQUENCES: usize = 24;

/// Limits of a [`Batch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSettings {
    /// Sequences at once, from 1 to [`MAX_SEQUENCES`]; further ones wait.
    pub max_sequences: usize,
    /// Tokens of a prompt and its output together, at most `max_position_embeddings`.
    pub context: usize,
}

/// Continues sequences of token ids, many in one pass.
///
/// A prompt is computed alone, then its sequences join the batch; one that ends makes room for another.
#[derive(Debug)]
pub struct Batch<'a, M> {
    model: &'a M,
    settings: BatchSettings,
    device: Device,
    slots: Slots,
    /// Requests by number, none of which has begun.
    waiting: VecDeque<(u64, Request)>,
    /// The request whose prompt is computed, or whose sequences begin.
    prefill: Option<Prefill>,
    prompts: PromptCache,
    num_requests: u64,
}

/// Receives the events of a sequence; `Break` ends the sequence.
pub type Listener<'a> = dyn FnMut(SequenceId, Event) -> ControlFlow<()> + 'a;

impl<'a, M: CausalLm> Batch<'a, M> {
    /// A batch without sequences.
    ///
    /// # Panics
    /// If a setting is out of its range.
    pub fn new(model: &'a M, settings: BatchSettings, device: &Device) -> Self {
        let BatchSettings { max_sequences, context } = settings;
        assert!(
            (1..=MAX_SEQUENCES).contains(&max_sequences),
            "{max_sequences} sequences, expected 1 to {MAX_SEQUENCES}"
        );
        let most = model.config().max_position_embeddings;
        assert!((1..=most).contains(&context), "a context of {context} tokens, expected 1 to {most}");
        let slots = Slots::new(model.config(), device);
        Self {
            model,
            settings,
            device: device.clone(),
            slots,
            waiting: VecDeque::new(),
            prefill: None,
            prompts: PromptCache::new(0),
            num_requests: 0,
        }
    }

    /// Keeps keys and values of recent prompts, of `max_positions` tokens together at most. A prompt that begins with the
    /// same tokens reuses them as far as no bit of its sequences changes by it. A new batch keeps none, so that they are
    /// always of its model.
    #[must_use]
    pub fn with_prompt_cache(self, max_positions: usize) -> Self {
        Self { prompts: PromptCache::new(max_positions), ..self }
    }

    /// Adds the sequences of a request, and returns its number. They begin when there is room, in the order of requests.
    ///
    /// # Errors
    /// Those of [`Request::check`].
    pub fn submit(&mut self, request: Request) -> Result<u64, GenerateError> {
        request.check(self.settings.context, self.model.config().vocab_size)?;
        let number = self.num_requests;
        self.num_requests += 1;
        self.waiting.push_back((number, request));
        Ok(number)
    }

    /// Ends the sequences of a request without further events.
    pub fn cancel(&mut self, request: u64) {
        self.waiting.retain(|(number, _)| *number != request);
        self.prefill.take_if(|prefill| prefill.number == request);
        let (rows, _) = self.slots.parts();
        rows.iter_mut()
            .filter(|row| row.as_ref().is_some_and(|row| row.id.request == request))
            .for_each(|row| *row = None);
        self.slots.release(self.model.config());
    }

    /// Sequences that have tokens.
    pub fn num_running(&self) -> usize {
        self.slots.num_running()
    }

    /// Requests with sequences that have not begun.
    pub fn num_waiting(&self) -> usize {
        self.waiting.len() + usize::from(self.prefill.is_some())
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.num_running() == 0 && self.num_waiting() == 0
    }

    /// Computes a part of the next prompt, if there is room for its sequences, then the next token of every sequence.
    pub fn step(&mut self, listener: &mut Listener<'_>) {
        if self.num_running() < self.settings.max_sequences {
            self.prefill(listener);
        }
        if self.num_running() > 0 {
            self.decode(listener);
            self.slots.release(self.model.config());
            let num_wanted = self.num_wanted(self.prefill.as_ref());
            self.slots.compact(self.model.config(), num_wanted);
        }
    }

    /// Sequences that run, of `prefill` and of waiting requests, as far as they run at once.
    fn num_wanted(&self, prefill: Option<&Prefill>) -> usize {
        let waiting: usize = self.waiting.iter().map(|(_, request)| request.num_sequences).sum();
        (self.num_running() + prefill.map_or(0, Prefill::num_left) + waiting).min(self.settings.max_sequences)
    }

    fn prefill(&mut self, listener: &mut Listener<'_>) {
        let Some(mut prefill) = self.prefill.take().or_else(|| self.next_prefill()) else { return };
        let first =
            Sequence::new(&prefill.request, SequenceId { request: prefill.number, index: 0 }, self.settings.context);
        let needs_logits = first.finish().is_none() || prefill.request.prompt_logprobs;
        if needs_logits && !prefill.is_complete() {
            prefill.advance(self.model, &self.device);
        }
        if prefill.is_complete() || !needs_logits {
            while prefill.num_left() > 0 && self.num_running() < self.settings.max_sequences {
                self.begin(&mut prefill, listener);
            }
        }
        if prefill.num_left() > 0 {
            self.prefill = Some(prefill);
        } else if prefill.is_complete() && is_cached(&prefill.request) {
            self.prompts.keep(prefill.request.prompt, prefill.cache);
        }
    }

    /// The prompt of the next request, with the keys and values that are known.
    fn next_prefill(&mut self) -> Option<Prefill> {
        let (number, request) = self.waiting.pop_front()?;
        let mut prefill = Prefill::new(self.model, number, request, &self.device);
        if is_cached(&prefill.request)
            && let Some((earlier, len)) = self.prompts.find(&prefill.request.prompt)
        {
            prefill.reuse(earlier, len);
        }
        Some(prefill)
    }

    /// Begins the next sequences of a computed prompt, as many as there is room for.
    fn begin(&mut self, prefill: &mut Prefill, listener: &mut Listener<'_>) {
        let BatchSettings { max_sequences, context } = self.settings;
        let num_wanted = self.num_wanted(Some(prefill));
        let num_computed = prefill.num_computed();
        let Prefill { number, request, cache, num_cached, num_begun, logits, experts, logprobs } = prefill;
        let first = *num_begun;
        *num_begun = request.num_sequences.min(first + max_sequences - self.num_running());
        let choose = |index| {
            let mut sequence = Sequence::new(request, SequenceId { request: *number, index }, context);
            let choice = sequence.finish().is_none().then(|| sequence.choose(logits, experts.clone()));
            (sequence, choice)
        };
        // Collected in the order of the indices.
        let chosen: Vec<_> = (first..*num_begun).into_par_iter().map(choose).collect();
        for (sequence, choice) in chosen {
            let logprobs = request.prompt_logprobs.then(|| logprobs.clone());
            let prompt = ComputedPrompt { num_cached: *num_cached, num_computed, logprobs };
            if listener(sequence.id, Event::Prompt(prompt)).is_break() {
                continue;
            }
            if tell(&sequence, choice, listener).is_continue() {
                self.slots.insert(self.model.config(), sequence, cache, num_wanted);
            }
        }
    }

    fn decode(&mut self, listener: &mut Listener<'_>) {
        let num_wanted = self.num_wanted(self.prefill.as_ref());
        self.slots.make_room(self.model.config(), num_wanted);
        let (rows, cache) = self.slots.parts();
        let ids: Vec<&[u32]> =
            rows.iter().map(|row| row.as_ref().map_or(&[][..], |row| std::slice::from_ref(&row.last))).collect();
        let tokens = TokenBatch::padded(&ids, &self.device);
        let HiddenStates { last, routing } = self.model.hidden_states(tokens, Some(cache));
        let logits = numbers(self.model.lm_head(last));
        let shows_routing = rows.iter().flatten().any(|row| row.routing);
        let experts = if shows_routing { heaviest(&routing) } else { Vec::new() };
        let vocab_size = self.model.config().vocab_size;
        let choose = |(at, (row, logits)): (usize, (&mut Option<Sequence>, &[f32]))| {
            let sequence = row.as_mut()?;
            let experts = if sequence.routing { experts.iter().map(|layer| layer[at]).collect() } else { Vec::new() };
            Some(sequence.choose(logits, experts))
        };
        // A choice depends on its own row only; the listener hears of them in the order of the rows.
        let choices = rows.par_iter_mut().zip(logits.par_chunks_exact(vocab_size)).enumerate().map(choose);
        let choices: Vec<_> = choices.collect();
        for (row, choice) in rows.iter_mut().zip(choices) {
            if row.as_ref().is_some_and(|sequence| tell(sequence, choice, listener).is_break()) {
                *row = None;
            }
        }
    }
}

/// Whether a prompt takes part in the prompt cache. Log-probabilities of a prompt need all of its states.
fn is_cached(request: &Request) -> bool {
    request.cache_prompt && !request.prompt_logprobs && request.max_tokens != Some(0)
}

/// Sends the chosen token, if there is one. If the sequence ends with it, also sends the end and returns `Break`.
fn tell(
    sequence: &Sequence,
    choice: Option<Result<Chosen, GenerateError>>,
    listener: &mut Listener<'_>,
) -> ControlFlow<()> {
    match choice {
        None => {}
        Some(Ok(chosen)) => listener(sequence.id, Event::Token(chosen))?,
        Some(Err(error)) => {
            let _ends_anyway = listener(sequence.id, Event::Failed(error));
            return ControlFlow::Break(());
        }
    }
    let Some(reason) = sequence.finish() else { return ControlFlow::Continue(()) };
    let _ends_anyway = listener(sequence.id, Event::Finished(reason));
    ControlFlow::Break(())
}
