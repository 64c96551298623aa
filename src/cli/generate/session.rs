//! A loaded model that continues prompts.

use std::time::Instant;

use super::args::GenerateArgs;
use super::printer::{Printer, Timings};
use super::routing::RoutingView;
use crate::cli::console;
use crate::cli::failure::Failure;
use crate::cli::model::Loaded;
use crate::generate::{Delta, Engine, FinishReason, Output, Progress, Request, prompt_ids};
use crate::model::{AnyDecoder, CausalLm};
use crate::tokenizer::{ChatTemplate, Message, RenderOptions, Tokenizer};

/// A loaded model, and how it is to continue prompts.
pub(super) struct Session<'a> {
    pub(super) args: &'a GenerateArgs,
    loaded: &'a Loaded,
    request: Request,
    pub(super) routing: Option<RoutingView>,
}

impl<'a> Session<'a> {
    pub(super) fn new(args: &'a GenerateArgs, loaded: &'a Loaded) -> Result<Self, Failure> {
        let tokenizer = &loaded.text_model.tokenizer;
        let mut stop_tokens = if args.ignore_eos { Vec::new() } else { tokenizer.eos().to_vec() };
        for token in &args.stop_token {
            let id = token.parse().ok().filter(|id| (*id as usize) < loaded.text_model.model.config().vocab_size);
            let unknown = || {
                Failure::invalid("the vocabulary has no such token").for_option(format_args!("--stop-token {token:?}"))
            };
            stop_tokens.push(id.or_else(|| tokenizer.token_to_id(token)).ok_or_else(unknown)?);
        }
        let routing = args.show_routing.map(|layer| RoutingView::new(loaded, layer)).transpose()?;
        if args.chat {
            loaded.chat_template()?;
        }
        let request = Request {
            num_sequences: args.samples,
            max_tokens: args.most_tokens(),
            sampling: args.sampling()?,
            stop_tokens,
            logprobs: args.logprobs,
            routing: routing.is_some(),
            ..Request::new(Vec::new())
        };
        Ok(Self { args, loaded, request, routing })
    }

    /// Continues one prompt, and prints the texts.
    pub(super) fn once(&self, prompt: Vec<u32>) -> Result<(), Failure> {
        let printer = Printer::new(self.args.json, self.args.samples, self.routing.as_ref());
        let mut engine = self.loaded.text_model.engine(self.args.samples);
        let (outputs, timings) = self.complete(&mut engine, prompt, &mut |delta| printer.delta(delta))?;
        printer.finish(self.args, self.loaded, &outputs, timings)
    }

    /// The ids of a chat, with the start of the assistant's next turn.
    pub(super) fn chat_ids(&self, messages: &[Message]) -> Result<Vec<u32>, Failure> {
        chat_ids(&self.loaded.text_model.tokenizer, self.loaded.chat_template()?, messages)
    }

    /// An engine for the turns of a chat, each of which begins with those before it.
    pub(super) fn chat_engine(&self) -> Engine<'a, AnyDecoder> {
        self.loaded.text_model.engine(self.args.samples).with_prompt_cache(self.loaded.max_cached_positions)
    }

    /// Continues a prompt. `show` receives each part of each text.
    pub(super) fn complete(
        &self,
        engine: &mut Engine<'_, AnyDecoder>,
        prompt: Vec<u32>,
        show: &mut dyn FnMut(&Delta) -> Result<(), Failure>,
    ) -> Result<(Vec<Output>, Timings), Failure> {
        let start = Instant::now();
        let mut timings = Timings { num_prompt: prompt.len(), ..Timings::default() };
        let request = Request { prompt, ..self.request.clone() };
        let outputs = engine.run(vec![(request, self.args.stop.clone())], &mut |_, progress| {
            timings.first.get_or_insert_with(|| start.elapsed());
            match progress {
                Progress::Delta(delta) => show(delta)?,
                Progress::Finished { num_tokens, .. } => {
                    timings.num_output += num_tokens;
                    timings.num_first += (*num_tokens).min(1);
                }
                Progress::Prompt(prompt) => {
                    (timings.num_cached, timings.num_computed) = (prompt.num_cached, prompt.num_computed);
                }
                Progress::Failed(_) => {}
            }
            Ok::<(), Failure>(())
        })?;
        let outputs: Vec<Output> = outputs.into_iter().flatten().collect();
        timings.total = start.elapsed();
        if outputs.iter().any(|output| output.finish == FinishReason::ContextFull) {
            let context = self.loaded.text_model.context();
            console::tell(format_args!("note: the context of {context} tokens is full"));
        }
        Ok((outputs, timings))
    }
}

/// The ids of the one prompt of a command: of a chat, those of its first turn. A chat needs a template, which
/// [`Session::new`] checks.
pub(super) fn prompt(
    args: &GenerateArgs,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    text: &str,
) -> Result<Vec<u32>, Failure> {
    match template.filter(|_| args.chat) {
        Some(template) => {
            let system = args.system_prompt.iter().map(|system| Message::new("system", system));
            chat_ids(tokenizer, template, &system.chain([Message::new("user", text)]).collect::<Vec<_>>())
        }
        None => Ok(prompt_ids(tokenizer, text)?),
    }
}

fn chat_ids(tokenizer: &Tokenizer, template: &ChatTemplate, messages: &[Message]) -> Result<Vec<u32>, Failure> {
    let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    let text = template.render(messages, &options)?;
    Ok(tokenizer.encode(&text)?)
}
