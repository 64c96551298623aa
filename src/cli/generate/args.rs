//! The arguments of `generate`.

use std::fs;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use clap::{Arg, Args};

use super::super::failure::Failure;
use super::super::model::ModelArgs;
use super::super::values::not_negative;
use super::escape::unescaped;
use crate::generate::{MAX_SEQUENCES, Sampling, SamplingFault, SamplingFields, fresh_seed};

/// Tokens of a completion, unless the command line says otherwise.
const DEFAULT_TOKENS: usize = 128;

/// Generate text from a prompt, or chat
///
/// The prompt is that of -p or -f, or stdin if it is a pipe or a file. Text goes to stdout as it comes, everything else to
/// stderr. Without sampling options, each token is the most likely one. The same seed gives the same text with any number of
/// samples and threads. Options of grow (--dus, --moe, ...) grow the model as it is loaded; its --top-k and --seed are
/// --moe-top-k and --growth-seed here. -m FILE, -cnv, -no-cnv, -sys and -ngl are understood as llama-cli's.
#[derive(Debug, Clone, Args)]
#[command(mut_args(brief))]
pub struct GenerateArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,

    /// The prompt
    #[arg(short = 'p', long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Prompt")]
    pub prompt: Option<String>,
    /// Replace escapes in the prompt of -p, as llama-cli does
    ///
    /// They are \n, \r, \t, \', \", \\ and \xHH, a byte.
    #[arg(short = 'e', long, requires = "prompt", help_heading = "Prompt")]
    pub escape: bool,
    /// A file with the prompt
    #[arg(short = 'f', long, value_name = "FILE", conflicts_with = "prompt", help_heading = "Prompt")]
    pub file: Option<PathBuf>,
    /// Chat: the prompt is a user message; without a prompt, start a conversation
    ///
    /// The turns are read from a terminal only.
    #[arg(long, conflicts_with = "no_conversation", help_heading = "Prompt")]
    pub chat: bool,
    /// The prompt is a text to continue: the default, accepted for command lines of llama.cpp
    #[arg(long, hide = true, conflicts_with = "system_prompt")]
    pub no_conversation: bool,
    /// The system message of a chat
    #[arg(
        long,
        visible_alias = "system",
        value_name = "TEXT",
        requires = "chat",
        allow_hyphen_values = true,
        help_heading = "Prompt"
    )]
    pub system_prompt: Option<String>,

    /// Tokens to generate [default: 128; with --chat no limit]
    ///
    /// A text without a limit, which -1 (or -2) asks for, goes on until it ends or the context is full.
    #[arg(short = 'n', long, visible_alias = "n-predict", value_name = "N", allow_negative_numbers = true, value_parser = token_limit, help_heading = "Length")]
    pub max_tokens: Option<TokenLimit>,
    /// A string that ends the text; repeat for several
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Length")]
    pub stop: Vec<String>,
    /// A token that ends the text, by id or as spelled in the vocabulary; repeat for several
    ///
    /// A number is taken as an id.
    #[arg(long, value_name = "TOKEN", help_heading = "Length")]
    pub stop_token: Vec<String>,
    /// Go on after a token that ends a text
    #[arg(long, help_heading = "Length")]
    pub ignore_eos: bool,
    /// Texts to generate for the prompt, at most 24
    ///
    /// They are computed as one batch.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = samples, help_heading = "Length")]
    pub samples: usize,

    /// Temperature; 0 is greedy
    #[arg(
        long,
        visible_alias = "temperature",
        value_name = "T",
        default_value_t = 0.0,
        allow_negative_numbers = true,
        help_heading = "Sampling"
    )]
    pub temp: f64,
    /// Keep the K most likely tokens; 0 keeps all
    #[arg(long = "top-k", id = "kept", value_name = "K", default_value_t = 0, allow_negative_numbers = true, value_parser = not_negative, help_heading = "Sampling")]
    pub top_k: usize,
    /// Keep the fewest most likely tokens that sum to at least P
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true, help_heading = "Sampling")]
    pub top_p: f64,
    /// Keep tokens with at least P times the probability of the most likely one
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true, help_heading = "Sampling")]
    pub min_p: f64,
    /// Penalty on tokens of prompt and text; 1 is none
    #[arg(
        long,
        visible_alias = "repetition-penalty",
        value_name = "X",
        default_value_t = 1.0,
        allow_negative_numbers = true,
        help_heading = "Sampling"
    )]
    pub repeat_penalty: f64,
    /// Penalty on a token for each time it is in the text
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true, help_heading = "Sampling")]
    pub frequency_penalty: f64,
    /// Penalty on tokens that are in the text
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true, help_heading = "Sampling")]
    pub presence_penalty: f64,
    /// Seed of the random numbers, or -1 for a random one [default: -1]
    #[arg(short = 's', long = "seed", id = "sampling_seed", value_name = "N", allow_negative_numbers = true, value_parser = seed, help_heading = "Sampling")]
    pub seed: Option<u64>,

    /// Print one completion object of OpenAI's API
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Log-probabilities of each token and of the N most likely ones, with --json
    #[arg(long, value_name = "N", requires = "json", value_parser = not_negative, help_heading = "Output")]
    pub logprobs: Option<usize>,
    /// Color tokens by their experts in a layer [default: the middle one]
    ///
    /// The expert with the largest weight at the position that predicted the token. Shares of all experts follow on stderr.
    #[arg(long, value_name = "LAYER", num_args = 0..=1, require_equals = true, help_heading = "Output")]
    pub show_routing: Option<Option<usize>>,
}

/// Leaves the rarer options to `--help`.
fn brief(arg: Arg) -> Arg {
    const RARE: [&str; 16] = [
        "escape",
        "file",
        "samples",
        "system_prompt",
        "chat_template",
        "threads",
        "stop_token",
        "ignore_eos",
        "min_p",
        "repeat_penalty",
        "frequency_penalty",
        "presence_penalty",
        "logprobs",
        "dtype",
        "quant",
        "device",
    ];
    if RARE.contains(&arg.get_id().as_str()) { arg.hide_short_help(true) } else { arg }
}

fn samples(text: &str) -> Result<usize, String> {
    match not_negative(text)? {
        number if (1..=MAX_SEQUENCES).contains(&number) => Ok(number),
        number => Err(format!("{number} is not from 1 to {MAX_SEQUENCES}")),
    }
}

/// `--max-tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenLimit {
    /// Until the text ends or the context is full.
    Unlimited,
    /// At most so many.
    Tokens(usize),
}

/// A number of tokens, or −1 or −2, with which llama.cpp asks for no limit.
fn token_limit(text: &str) -> Result<TokenLimit, String> {
    match text {
        "-1" | "-2" => Ok(TokenLimit::Unlimited),
        _ => not_negative(text).map(TokenLimit::Tokens),
    }
}

/// A seed; −1 stands for a random one.
fn seed(text: &str) -> Result<u64, String> {
    match text {
        "-1" => Ok(fresh_seed()),
        _ => text.parse().map_err(|_| format!("{text:?} is not a whole number from 0 to {}, nor -1", u64::MAX)),
    }
}

/// Where the prompt is from.
#[derive(Debug)]
pub(super) enum Input {
    Text(String),
    /// Turns that a user types.
    Terminal,
}

impl GenerateArgs {
    /// The prompt; stdin is read unless it is a terminal.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub(super) fn input(&self) -> Result<Input, Failure> {
        if let Some(prompt) = &self.prompt {
            return Ok(Input::Text(if self.escape { unescaped(prompt)? } else { prompt.clone() }));
        }
        if let Some(file) = &self.file {
            return Ok(Input::Text(self.message(fs::read_to_string(file).map_err(Failure::reading(file))?)));
        }
        if io::stdin().is_terminal() {
            return match self.chat && !self.json {
                true => Ok(Input::Terminal),
                false => Err(Failure::usage("there is no prompt: expected -p TEXT, -f FILE, or text on stdin")),
            };
        }
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map_err(Failure::reading(Path::new("stdin")))?;
        match self.chat && text.trim().is_empty() {
            true => Err(Failure::usage("stdin has no message: expected -p TEXT, -f FILE, or text on stdin")),
            false => Ok(Input::Text(self.message(text))),
        }
    }

    /// The text of a file; in a chat, without the newline at its end.
    fn message(&self, mut text: String) -> String {
        if self.chat && text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        text
    }

    /// Whether options of sampling or several texts were asked for, which have no effect under greedy decoding.
    pub(super) fn draws_nothing(&self) -> bool {
        let Self { temp, top_k, top_p, min_p, samples, seed, .. } = self;
        *temp == 0.0 && (*top_k > 0 || *top_p < 1.0 || *min_p > 0.0 || *samples > 1 || seed.is_some())
    }

    /// How tokens are chosen.
    ///
    /// # Errors
    /// If a number is out of its range.
    pub(super) fn sampling(&self) -> Result<Sampling, Failure> {
        let fields = SamplingFields {
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repeat_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            seed: self.seed.unwrap_or_else(fresh_seed),
        };
        Sampling::new(fields).map_err(|fault: SamplingFault| {
            let option = match fault.field {
                "temperature" => "temp",
                "repetition_penalty" => "repeat-penalty",
                field => field,
            };
            let SamplingFault { found, expected, .. } = fault;
            Failure::usage(format_args!("expected a number {expected}"))
                .for_option(format_args!("--{} {found}", option.replace('_', "-")))
        })
    }

    /// Tokens of each text at most; `None` goes on until the context is full.
    pub(super) fn most_tokens(&self) -> Option<usize> {
        match self.max_tokens {
            Some(TokenLimit::Tokens(count)) => Some(count),
            Some(TokenLimit::Unlimited) => None,
            None => (!self.chat).then_some(DEFAULT_TOKENS),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: GenerateArgs,
    }

    pub(in crate::cli::generate) fn parsed(words: &str) -> Result<GenerateArgs, clap::Error> {
        Line::try_parse_from(format!("generate {words}").split(' ')).map(|line| line.args)
    }

    #[test]
    fn numbers_out_of_range_name_their_option() {
        for (words, said) in [
            ("m --temp -1", "--temp -1: expected a number of at least 0"),
            ("m --top-p 1.5", "--top-p 1.5: expected a number from 0 to 1"),
            ("m --repeat-penalty 0", "--repeat-penalty 0: expected a number above 0"),
        ] {
            let failure = parsed(words).unwrap().sampling().unwrap_err();
            assert_eq!((failure.code(), failure.to_string()), (2, said.to_owned()));
        }
        assert!(parsed("m --samples 0").is_err() && parsed("m --samples 25").is_err());
        assert!(parsed("m --top-k -1").is_err() && parsed("m -n -3").is_err() && parsed("m -s -2").is_err());
    }

    #[test]
    fn a_layer_is_given_by_an_equals_sign() {
        let layer = |words| parsed(words).unwrap().show_routing;
        assert_eq!(layer("m --show-routing"), Some(None));
        assert_eq!(layer("--show-routing m"), Some(None));
        assert_eq!(layer("m --show-routing=3"), Some(Some(3)));
        assert_eq!(layer("m"), None);
        assert_eq!(parsed("m -n 5 --chat").unwrap().most_tokens(), Some(5));
        assert_eq!(parsed("m --chat").unwrap().most_tokens(), None);
        assert_eq!(parsed("m").unwrap().most_tokens(), Some(DEFAULT_TOKENS));
        assert_eq!(parsed("m -n -1 -s -1").unwrap().most_tokens(), None);
    }
}
