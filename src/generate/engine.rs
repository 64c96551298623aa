//! Continuous batching of texts.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use burn::tensor::Device;

use super::output::PartialText;
use super::{
    Batch, BatchSettings, Chosen, ComputedPrompt, Delta, Event, FinishReason, GenerateError, Output, Request,
    SequenceId, StopStrings,
};
use crate::model::CausalLm;
use crate::tokenizer::Tokenizer;

/// Progress of a text.
#[derive(Debug)]
pub enum Progress {
    /// The text begins. Sent before any part of it.
    Prompt(ComputedPrompt),
    /// More of the text; it can be empty while tokens come.
    Delta(Delta),
    /// The text is complete. `num_tokens` counts the chosen tokens, that of the end included.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Tokens of the output.
        num_tokens: usize,
    },
    /// The text cannot continue.
    Failed(GenerateError),
}

/// Receives the progress of a text; `Break` ends it.
pub type TextListener<'a> = dyn FnMut(SequenceId, Progress) -> ControlFlow<()> + 'a;

/// Continues texts, many in one pass; see [`Batch`].
#[derive(Debug)]
pub struct Engine<'a, M> {
    batch: Batch<'a, M>,
    tokenizer: &'a Tokenizer,
    /// Requests with a sequence that has not ended.
    requests: BTreeMap<u64, Texts>,
}

/// The texts of a request.
#[derive(Debug)]
struct Texts {
    prompt: Vec<u32>,
    stop: StopStrings,
    stop_tokens: Vec<u32>,
    running: BTreeMap<usize, Text>,
    /// Sequences that have not ended.
    num_left: usize,
}

#[derive(Debug)]
struct Text {
    partial: PartialText,
    num_tokens: usize,
    stop_token: Option<Chosen>,
}

impl<'a, M: CausalLm> Engine<'a, M> {
    /// An engine without texts.
    ///
    /// # Panics
    /// As [`Batch::new`].
    pub fn new(model: &'a M, tokenizer: &'a Tokenizer, settings: BatchSettings, device: &Device) -> Self {
        Self { batch: Batch::new(model, settings, device), tokenizer, requests: BTreeMap::new() }
    }

    /// Keeps keys and values of recent prompts; see [`Batch::with_prompt_cache`].
    #[must_use]
    pub fn with_prompt_cache(self, max_positions: usize) -> Self {
        Self { batch: self.batch.with_prompt_cache(max_positions), ..self }
    }

    /// Adds the sequences of a request, each of which also ends at a stop string, and returns its number. A stop string that is a
    /// special token is a stop token: special tokens give no text.
    ///
    /// # Errors
    /// Those of [`Request::check`].
    pub fn submit(&mut self, mut request: Request, stop: Vec<String>) -> Result<u64, GenerateError> {
        let is_special = |id: &u32| self.tokenizer.decode_text(&[*id]).is_ok_and(|text| text.is_empty());
        let ids = stop.iter().filter_map(|string| self.tokenizer.token_to_id(string));
        request.stop_tokens.extend(ids.filter(is_special));
        let (prompt, stop_tokens) = (request.prompt.clone(), request.stop_tokens.clone());
        let (stop, num_left) = (StopStrings::new(stop), request.num_sequences);
        let number = self.batch.submit(request)?;
        let texts = Texts { prompt, stop, stop_tokens, running: BTreeMap::new(), num_left };
        self.requests.insert(number, texts);
        Ok(number)
    }

    /// Ends the texts of a request without further news.
    pub fn cancel(&mut self, request: u64) {
        self.batch.cancel(request);
        self.requests.remove(&request);
    }

    /// Texts that have tokens.
    pub fn num_running(&self) -> usize {
        self.batch.num_running()
    }

    /// Requests with texts that have not begun.
    pub fn num_waiting(&self) -> usize {
        self.batch.num_waiting()
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.batch.is_idle()
    }

    /// Computes the next token of every text; see [`Batch::step`].
    pub fn step(&mut self, listener: &mut TextListener<'_>) {
        let Self { batch, tokenizer, requests } = self;
        batch.step(&mut |id, event| {
            let Some(texts) = requests.get_mut(&id.request) else { return ControlFlow::Break(()) };
            let is_last = matches!(event, Event::Finished(_) | Event::Failed(_));
            let flow = texts.take(tokenizer, id, event, listener);
            if is_last || flow.is_break() {
                texts.running.remove(&id.index);
                texts.num_left -= 1;
            }
            flow
        });
        requests.retain(|_, texts| texts.num_left > 0);
    }

    /// Continues every prompt, and returns the outputs of each request in the order of the requests. `listener` hears of all progress
    /// as it is made.
    ///
    /// # Errors
    /// The first [`GenerateError`], or error of `listener`; the other texts are then cancelled.
    ///
    /// # Panics
    /// If the engine is not idle: the progress of other requests would be lost.
    pub fn run<E: From<GenerateError>>(
        &mut self,
        requests: Vec<(Request, Vec<String>)>,
        listener: &mut dyn FnMut(SequenceId, &Progress) -> Result<(), E>,
    ) -> Result<Vec<Vec<Output>>, E> {
        assert!(self.is_idle(), "the engine has other requests");
        let mut outputs: BTreeMap<u64, Vec<PartialOutput>> = BTreeMap::new();
        let mut failure: Option<E> = None;
        for (request, stop) in requests {
            let texts = (0..request.num_sequences).map(|_| PartialOutput::default()).collect();
            match self.submit(request, stop) {
                Ok(number) => drop(outputs.insert(number, texts)),
                Err(error) => failure = failure.or(Some(error.into())),
            }
        }
        while failure.is_none() && !self.is_idle() {
            self.step(&mut |id, progress| {
                let told = listener(id, &progress);
                let output = &mut outputs.get_mut(&id.request).expect("a request of this run")[id.index];
                failure = failure.take().or(output.take(progress).map(E::from)).or(told.err());
                if failure.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
        }
        match failure {
            Some(error) => {
                outputs.into_keys().for_each(|number| self.cancel(number));
                Err(error)
            }
            None => {
                Ok(outputs.into_values().map(|texts| texts.into_iter().map(PartialOutput::whole).collect()).collect())
            }
        }
    }
}

#[derive(Default)]
struct PartialOutput {
    text: String,
    tokens: Vec<super::TokenText>,
    finish: Option<FinishReason>,
}

impl PartialOutput {
    /// Adds progress; returns the error if the text failed.
    fn take(&mut self, progress: Progress) -> Option<GenerateError> {
        match progress {
            Progress::Prompt(_) => {}
            Progress::Delta(delta) => {
                self.text += &delta.text;
                self.tokens.extend(delta.tokens);
            }
            Progress::Finished { reason, .. } => self.finish = Some(reason),
            Progress::Failed(error) => return Some(error),
        }
        None
    }

    fn whole(self) -> Output {
        let finish = self.finish.expect("no sequence is left");
        Output { text: self.text, tokens: self.tokens, finish }
    }
}

impl Texts {
    /// Turns an event of tokens into news of a text.
    fn take(
        &mut self,
        tokenizer: &Tokenizer,
        id: SequenceId,
        event: Event,
        listener: &mut TextListener<'_>,
    ) -> ControlFlow<()> {
        let new =
            || Text { partial: PartialText::new(&self.prompt, self.stop.clone()), num_tokens: 0, stop_token: None };
        let text = self.running.entry(id.index).or_insert_with(new);
        match event {
            Event::Prompt(prompt) => listener(id, Progress::Prompt(prompt)),
            Event::Failed(error) => listener(id, Progress::Failed(error)),
            Event::Token(token) => {
                text.num_tokens += 1;
                if self.stop_tokens.contains(&token.id) {
                    text.stop_token = Some(token);
                    return ControlFlow::Continue(());
                }
                match text.partial.push(tokenizer, token) {
                    Err(error) => {
                        let _ends_anyway = listener(id, Progress::Failed(error.into()));
                        ControlFlow::Break(())
                    }
                    Ok((delta, is_stopped)) => {
                        listener(id, Progress::Delta(delta))?;
                        if !is_stopped {
                            return ControlFlow::Continue(());
                        }
                        let (reason, num_tokens) = (FinishReason::StopString, text.num_tokens);
                        let _ends_anyway = listener(id, Progress::Finished { reason, num_tokens });
                        ControlFlow::Break(())
                    }
                }
            }
            Event::Finished(reason) => match text.partial.finish(tokenizer, text.stop_token.take()) {
                Err(error) => listener(id, Progress::Failed(error.into())),
                Ok((delta, is_stopped)) => {
                    let reason = if is_stopped { FinishReason::StopString } else { reason };
                    listener(id, Progress::Delta(delta))?;
                    listener(id, Progress::Finished { reason, num_tokens: text.num_tokens })
                }
            },
        }
    }
}
