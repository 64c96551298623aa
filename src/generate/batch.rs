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
use crate::model::{CausalLm, CausalLmOutput, Decoding};

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
    decoding: Decoding<'a, M>,
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
            decoding: Decoding::new(model, device),
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
        self.release();
    }

    /// Frees the rows of sequences that have ended, and what a captured pass holds once there is no other.
    fn release(&mut self) {
        self.slots.release(self.model.config());
        if self.num_running() == 0 {
            self.decoding.release();
        }
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
            self.release();
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
        let ids: Vec<Option<u32>> = rows.iter().map(|row| row.as_ref().map(|row| row.last)).collect();
        let CausalLmOutput { logits, routing } = self.decoding.pass(&ids, cache);
        let logits = numbers(logits);
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
        for (at, (row, choice)) in rows.iter_mut().zip(choices).enumerate() {
            if matches!(choice, Some(Err(_))) {
                cache.clear_sequence(at);
            }
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

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests {
    use super::*;
    use crate::config::{DecoderConfig, DecoderFields};
    use crate::model::AnyDecoder;
    use crate::weights::{Dtype, MemoryWeights, RawTensor, TensorId, WeightSource};

    /// The tokens of each request, and whether it failed. All cached numbers are finite after each step.
    fn run(model: &AnyDecoder, prompts: &[Vec<u32>]) -> Vec<(Vec<u32>, bool)> {
        let settings = BatchSettings { max_sequences: prompts.len(), context: 64 };
        let mut batch = Batch::new(model, settings, &Device::flex());
        for prompt in prompts {
            batch.submit(Request { max_tokens: Some(8), ..Request::new(prompt.clone()) }).expect("a good request");
        }
        let mut outputs = vec![(Vec::new(), false); prompts.len()];
        while !batch.is_idle() {
            batch.step(&mut |id, event| {
                let (tokens, is_failed) = &mut outputs[id.request as usize];
                match event {
                    Event::Token(chosen) => tokens.push(chosen.id),
                    Event::Failed(_) => *is_failed = true,
                    _ => {}
                }
                ControlFlow::Continue(())
            });
            assert!(batch.slots.parts().1.is_finite());
        }
        outputs
    }

    #[test]
    fn a_sequence_that_fails_leaves_no_numbers_that_are_not_finite() {
        let of_head = |fields: &mut DecoderFields| (fields.num_hidden_layers, fields.tie_word_embeddings) = (1, false);
        let config = DecoderConfig::pico().with(of_head).expect("sound");
        let weights = MemoryWeights::untrained(config.clone(), 0.1, 1);
        let load = |weights: &MemoryWeights| AnyDecoder::load(weights, &Device::flex()).expect("in memory");
        let prompts = [vec![1, 2, 3], vec![4, 5]];
        let sound = run(&load(&weights), &prompts);
        let [(first, _), (second, _)] = &sound[..] else { panic!("two requests") };
        // A token that only the second sequence computes, and not in its prompt.
        let is_elsewhere = |id: &u32| first.contains(id) || prompts.concat().contains(id);
        let spoilt = *second[..7].iter().find(|id| !is_elsewhere(id)).expect("other tokens");
        let overflowing = MemoryWeights::new(config.clone(), |id| {
            let tensor = weights.read(id).expect("in memory");
            if id != TensorId::EmbedTokens {
                return tensor;
            }
            let mut values = tensor.to_f32();
            values[spoilt as usize * config.hidden_size] = f32::INFINITY;
            RawTensor::from_f32(Dtype::Float32, tensor.shape().to_vec(), &values)
        });
        let found = run(&load(&overflowing), &prompts);
        assert_eq!(found[0], sound[0], "the other sequence");
        assert!(found[1].1 && second.starts_with(&found[1].0), "{:?}", found[1]);
    }
}

#[cfg(test)]
#[cfg(feature = "cube")]
mod tests_of_replays {
    use super::*;
    use crate::config::{DecoderConfig, MoeConfig};
    use crate::device::cube_devices;
    use crate::generate::{Sampling, SamplingFields};
    use crate::model::AnyDecoder;
    use crate::weights::MemoryWeights;

    /// The tokens of each sequence, and in how many steps they were computed by replaying.
    fn run(model: &AnyDecoder, requests: &[Request], is_direct: bool, device: &Device) -> (Vec<Vec<u32>>, usize) {
        let settings = BatchSettings { max_sequences: 3, context: 512 };
        let mut batch = Batch::new(model, settings, device);
        for request in requests {
            batch.submit(request.clone()).expect("a good request");
        }
        let mut tokens = vec![Vec::new(); requests.len()];
        let mut num_replays = 0;
        while !batch.is_idle() {
            let mut listener = |id: SequenceId, event: Event| {
                if let Event::Token(chosen) = event {
                    tokens[id.request as usize].push(chosen.id);
                }
                ControlFlow::Continue(())
            };
            // A record computes each pass directly.
            if is_direct {
                crate::trace::record(device, || batch.step(&mut listener));
            } else {
                batch.step(&mut listener);
            }
            num_replays += usize::from(batch.decoding.is_captured());
        }
        assert!(!batch.decoding.is_captured(), "an idle batch holds no memory");
        (tokens, num_replays)
    }

    #[test]
    fn replayed_steps_choose_the_tokens_of_direct_ones() {
        let dense = DecoderConfig::pico().with(|fields| fields.num_hidden_layers = 1).expect("sound");
        let moe = MoeConfig { num_local_experts: 5, num_experts_per_tok: 2, router_aux_loss_coef: 0.0 };
        let sparse = dense.with_experts(moe).expect("sound");
        for (name, device) in cube_devices() {
            for config in [&dense, &sparse] {
                let weights = MemoryWeights::untrained(config.clone(), 0.1, 1);
                let model = AnyDecoder::load(&weights, &device).expect("in memory");
                // Sequences of different lengths join and leave; the cache grows, and rows are idle.
                let lens = [(3, 9), (140, 12), (20, 5), (1, 14), (70, 8)];
                let requests = lens.map(|(num_prompt, num_output)| {
                    let temperature = f64::from(num_prompt % 2);
                    let sampling = Sampling::new(SamplingFields { temperature, ..SamplingFields::default() });
                    let prompt = (0..num_prompt).map(|i| (i * i * 3 % 448) as u32).collect();
                    Request { max_tokens: Some(num_output), sampling: sampling.expect("sound"), ..Request::new(prompt) }
                });
                let (expected, num_replays) = run(&model, &requests, true, &device);
                assert_eq!(num_replays, 0, "{name}");
                let (found, num_replays) = run(&model, &requests, false, &device);
                assert_eq!(found, expected, "{name}");
                assert!(num_replays > 5, "{name}: {num_replays} replays");
            }
        }
    }
}
