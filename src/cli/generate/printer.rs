//! Texts on stdout, and how long they took.

use std::time::Duration;

use serde_json::{Value, json};

use super::args::GenerateArgs;
use super::routing::RoutingView;
use crate::cli::failure::Failure;
use crate::cli::model::Loaded;
use crate::cli::{console, output};
use crate::generate::{Delta, Output};
use crate::serve::{AnswerHeader, ChoiceNews, Endpoint, Usage};

/// Counts and times of a completion.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Timings {
    pub(super) num_prompt: usize,
    /// Tokens of the prompt that were not computed: a chat has had them before.
    pub(super) num_cached: usize,
    /// Tokens of the prompt that were computed: 0 if no new tokens were requested.
    pub(super) num_computed: usize,
    /// Of all texts.
    pub(super) num_output: usize,
    /// Of these, first tokens of a text: the pass of the prompt gives them.
    pub(super) num_first: usize,
    /// Until the first token.
    pub(super) first: Option<Duration>,
    pub(super) total: Duration,
}

/// Prints texts as they come, or whole.
pub(super) struct Printer<'a> {
    json: bool,
    /// Of several texts, each is printed when all are complete.
    streams: bool,
    routing: Option<&'a RoutingView>,
}

impl<'a> Printer<'a> {
    pub(super) fn new(json: bool, samples: usize, routing: Option<&'a RoutingView>) -> Self {
        Self { json, streams: !json && samples == 1, routing }
    }

    /// Prints the next part of a text.
    pub(super) fn delta(&self, delta: &Delta) -> Result<(), Failure> {
        if !self.streams {
            return Ok(());
        }
        match self.routing {
            Some(routing) => output::print(&routing.colored(&delta.tokens)),
            None => output::print(&delta.text),
        }
    }

    /// Prints the rest.
    pub(super) fn finish(
        &self,
        args: &GenerateArgs,
        loaded: &Loaded,
        outputs: &[Output],
        timings: Timings,
    ) -> Result<(), Failure> {
        if self.json {
            return output::print(&format!("{:#}\n", answer(args, loaded, outputs, timings)));
        }
        if self.streams {
            output::print("\n")?;
        } else {
            for (number, text) in outputs.iter().enumerate() {
                let shown = self.routing.map_or_else(|| text.text.clone(), |routing| routing.colored(&text.tokens));
                output::print(&format!("--- {} ---\n{shown}\n", number + 1))?;
            }
        }
        if let Some(routing) = self.routing {
            console::tell(routing.shares(outputs).trim_end());
        }
        console::tell(timings.line());
        Ok(())
    }
}

/// The completion object of OpenAI's API, with the times as llama.cpp's server gives them.
fn answer(args: &GenerateArgs, loaded: &Loaded, outputs: &[Output], timings: Timings) -> Value {
    let endpoint = if args.chat { Endpoint::Chat } else { Endpoint::Completion };
    let header = AnswerHeader::new(endpoint, loaded.name.clone());
    let choice = |(index, output): (usize, &Output)| {
        let news = ChoiceNews {
            index,
            text: output.text.clone(),
            tokens: output.tokens.clone(),
            finish: Some(output.finish),
            logprobs: args.logprobs.is_some(),
            routing: args.show_routing.is_some(),
            ..ChoiceNews::default()
        };
        header.choice(&loaded.text_model.tokenizer, &news, false)
    };
    let choices = outputs.iter().enumerate().map(choice).collect();
    let Timings { num_prompt: prompt_tokens, num_cached: cached_tokens, num_output: completion_tokens, .. } = timings;
    let usage = Usage { prompt_tokens, cached_tokens, completion_tokens };
    let mut answer = header.whole(choices, usage);
    answer["timings"] = timings.to_json();
    answer
}

impl Timings {
    /// Tokens a second; none of no tokens.
    fn rate(count: usize, time: Duration) -> Option<f64> {
        (count > 0).then(|| count as f64 / time.as_secs_f64().max(1e-9))
    }

    fn prompt_rate(&self) -> Option<f64> {
        Self::rate(self.num_computed, self.first())
    }

    /// The rate of the tokens behind the first one of each text.
    fn decoding_rate(&self) -> Option<f64> {
        Self::rate(self.num_output - self.num_first, self.decoding())
    }

    fn first(&self) -> Duration {
        self.first.unwrap_or_default()
    }

    /// Time of the tokens behind the first one of each text.
    fn decoding(&self) -> Duration {
        self.total.saturating_sub(self.first())
    }

    /// A line for people.
    pub(super) fn line(&self) -> String {
        if self.num_computed == 0 {
            return format!("{} prompt tokens, not computed: no tokens to generate", self.num_prompt);
        }
        let in_parentheses = |rate: Option<f64>| rate.map_or(String::new(), |rate| format!(" ({rate:.1} t/s)"));
        let cached = if self.num_cached > 0 { format!(", {} of them cached,", self.num_cached) } else { String::new() };
        format!(
            "{} prompt tokens{cached} in {:.2} s{}, {} tokens in {:.2} s{}",
            self.num_prompt,
            self.first().as_secs_f64(),
            in_parentheses(self.prompt_rate()),
            self.num_output,
            self.decoding().as_secs_f64(),
            in_parentheses(self.decoding_rate()),
        )
    }

    fn to_json(self) -> Value {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        json!({
            "cache_n": self.num_cached,
            "prompt_n": self.num_computed,
            "prompt_ms": ms(self.first()),
            "prompt_per_second": self.prompt_rate(),
            "predicted_n": self.num_output,
            "predicted_ms": ms(self.decoding()),
            "predicted_per_second": self.decoding_rate(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times of a prompt of 10 tokens in one second, and of what follows in two.
    fn timings(num_computed: usize, num_output: usize, num_first: usize) -> Timings {
        let [first, total] = [1, 3].map(Duration::from_secs);
        Timings { num_prompt: 10, num_cached: 0, num_computed, num_output, num_first, first: Some(first), total }
    }

    #[test]
    fn only_tokens_that_were_computed_have_a_speed() {
        assert_eq!(timings(10, 7, 1).line(), "10 prompt tokens in 1.00 s (10.0 t/s), 7 tokens in 2.00 s (3.0 t/s)");
        // The first tokens of several texts come with the prompt.
        assert_eq!(timings(10, 12, 4).line(), "10 prompt tokens in 1.00 s (10.0 t/s), 12 tokens in 2.00 s (4.0 t/s)");
        assert_eq!(timings(10, 4, 4).line(), "10 prompt tokens in 1.00 s (10.0 t/s), 4 tokens in 2.00 s");
        let none = timings(0, 0, 0);
        assert_eq!(none.line(), "10 prompt tokens, not computed: no tokens to generate");
        let json = none.to_json();
        assert_eq!((&json["prompt_n"], &json["prompt_per_second"]), (&json!(0), &Value::Null));
    }
}
