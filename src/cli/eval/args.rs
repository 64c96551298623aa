//! The arguments of `eval`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::BoolishValueParser;
use clap::{Arg, ArgAction, Args};

use super::super::adapter::AdapterArgs;
use super::super::grow::{self, GrowthArgs};
use super::super::threads::ThreadsArgs;
use super::super::values::{not_negative, size};
use super::super::weights::WeightsArgs;
use crate::eval::{Limit, Limits, Seeds};

/// The seed of lm-eval's examples.
const FEWSHOT_SEED: u64 = 1234;

/// Evaluate a model on the benchmarks of the Open LLM Leaderboard
///
/// Tasks, prompts, examples, metrics and results are those of lm-evaluation-harness 0.4.13, and so are the names of options; both
/// --num-fewshot and --num_fewshot are understood. Options of grow (--dus, --moe, ...) grow the model first. docs/evaluation.md
/// describes the layouts of the data.
#[derive(Debug, Clone, Args)]
#[command(mut_args(brief))]
pub struct EvalArgs {
    /// The model: a Hugging Face directory, a .gguf file, or an id on the hub
    ///
    /// --tasks list needs none.
    pub model: Option<String>,
    /// Tasks and groups: arc_challenge, hellaswag, mmlu, openllm; list shows all
    ///
    /// Separated by commas or spaces; patterns such as mmlu_* are understood. openllm (or h6) runs arc_challenge, hellaswag, mmlu,
    /// truthfulqa_mc2, winogrande and gsm8k with the leaderboard's 25, 10, 5, 0, 5, 5 examples; mmlu_stem and the other categories, and each subject, as mmlu_anatomy, can be named too.
    #[arg(long, short, value_name = "TASK", required = true, num_args = 1.., value_delimiter = ',', help_heading = "Tasks and data")]
    pub tasks: Vec<String>,
    /// Directory with the data [default: the data sets of the hub]
    ///
    /// Files are .jsonl, .json, .csv, .parquet or .arrow; docs/evaluation.md has the layouts. Without it, the Parquet files of the hub
    /// are downloaded into the cache of Python's huggingface_hub.
    #[arg(long, value_name = "DIR", help_heading = "Tasks and data")]
    pub data_dir: Option<PathBuf>,
    /// Examples in each prompt [default: those of the task]
    ///
    /// By default, prompts have 0 examples, those of gsm8k 5, and those under openllm as many as on the leaderboard.
    #[arg(long, short = 'f', value_name = "N", allow_negative_numbers = true, value_parser = not_negative, help_heading = "Tasks and data")]
    pub num_fewshot: Option<usize>,
    /// Items of each task to evaluate: a number, or a share below 1
    #[arg(long, short = 'L', value_name = "N|R", allow_negative_numbers = true, value_parser = limit, help_heading = "Tasks and data")]
    pub limit: Option<Limit>,
    /// Seed for the examples, or four seeds as in lm-eval, of which the last is used
    #[arg(long = "seed", id = "seeds", value_name = "N", default_value = "0,1234,1234,1234", value_parser = seeds, help_heading = "Tasks and data")]
    pub seeds: Seeds,

    /// Write prompts as chats, with the chat template of the model
    ///
    /// NAME selects one of several templates.
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "", help_heading = "Prompts")]
    pub apply_chat_template: Option<String>,
    /// Whether the examples of a chat are turns of their own, or part of the question
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set, value_parser = BoolishValueParser::new(), help_heading = "Prompts")]
    pub fewshot_as_multiturn: bool,
    /// System message before each prompt
    #[arg(long, value_name = "TEXT", help_heading = "Prompts")]
    pub system_instruction: Option<String>,

    /// Directory for the results, or a .json file
    ///
    /// In a directory, MODEL/results_DATE.json.
    #[arg(long, short, value_name = "PATH", help_heading = "Output")]
    pub output_path: Option<PathBuf>,
    /// Write items and answers to samples_TASK_DATE.jsonl
    #[arg(long, short = 's', requires = "output_path", help_heading = "Output")]
    pub log_samples: bool,
    /// Log of answered requests, kept for other runs of this model
    ///
    /// A run reuses the answers in the log and appends its own. Without this option, a run with --output-path keeps a log
    /// until it finishes, so that the same command can continue an interrupted run.
    #[arg(long, short = 'c', value_name = "FILE", help_heading = "Output")]
    pub use_cache: Option<PathBuf>,
    /// Replace the .json file of --output-path
    #[arg(long, short = 'y', help_heading = "Output")]
    pub force: bool,
    /// Print the results as one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,

    /// Sequences at once
    ///
    /// auto takes as many as fit 4096 tokens and, with their keys and values, 1 GiB, but at least one. On CPUs, a context and its
    /// endings are one sequence. At most 24 texts are generated at once.
    #[arg(long, short, value_name = "N", default_value = "auto", help_heading = "Model")]
    pub batch_size: BatchSize,
    /// How weights are loaded, and where.
    #[command(flatten, next_help_heading = "Model")]
    pub weights: WeightsArgs,
    /// The number of threads.
    #[command(flatten, next_help_heading = "Model")]
    pub threads: ThreadsArgs,
    /// An adapter for the model.
    #[command(flatten)]
    pub adapter: AdapterArgs,
    /// How the model is grown.
    #[command(flatten)]
    pub growth: GrowthArgs,
}

/// Leaves the options of growth and the rarer ones to `--help`, and gives `--seed` to the examples and `-t` to the tasks, as
/// lm-eval does.
fn brief(arg: Arg) -> Arg {
    const RARE: [&str; 7] =
        ["fewshot_as_multiturn", "system_instruction", "seeds", "use_cache", "force", "quant", "threads"];
    let arg = match arg.get_id().as_str() {
        "seed" => arg.long("growth-seed"),
        "threads" => arg.short(None),
        _ => arg,
    };
    if RARE.contains(&arg.get_id().as_str()) { arg.hide_short_help(true) } else { grow::brief(arg) }
}

/// `--batch-size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchSize {
    /// As many sequences as fit the number of tokens of a pass.
    Auto,
    /// At most so many.
    Count(usize),
}

impl BatchSize {
    /// The bounds of a pass.
    pub(super) fn limits(self) -> Limits {
        match self {
            Self::Auto => Limits::default(),
            Self::Count(max_sequences) => Limits { max_sequences, max_tokens: usize::MAX, max_cache_bytes: u64::MAX },
        }
    }
}

impl FromStr for BatchSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            // lm-eval measures again N times; the bounds of a pass need no measuring.
            _ if text.strip_prefix("auto:").is_some_and(|times| times.parse::<usize>().is_ok()) => Ok(Self::Auto),
            _ => size(text).map(Self::Count),
        }
    }
}

impl fmt::Display for BatchSize {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Count(count) => count.fmt(f),
        }
    }
}

fn limit(text: &str) -> Result<Limit, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share < 1.0 => Ok(Limit::Share(share)),
        Ok(count) if count >= 1.0 && count.fract() == 0.0 && count < 1e15 => Ok(Limit::Count(count as usize)),
        _ => Err(format!("{text:?} is neither a number of items of at least 1 nor a share below 1")),
    }
}

/// One seed for all, or those of Python, NumPy, PyTorch and, unless it is 1234, the examples. The first three may be `None`.
fn seeds(text: &str) -> Result<Seeds, String> {
    let seed = |word: &str| match word.trim() {
        "None" => Ok(None),
        word => word.parse::<u64>().map(Some),
    };
    let parsed: Result<Vec<Option<u64>>, _> = text.split(',').map(seed).collect();
    match parsed.as_deref() {
        Ok([Some(fewshot)]) => {
            Ok(Seeds { python: Some(*fewshot), numpy: Some(*fewshot), torch: Some(*fewshot), fewshot: *fewshot })
        }
        Ok([python, numpy, torch]) => {
            Ok(Seeds { python: *python, numpy: *numpy, torch: *torch, fewshot: FEWSHOT_SEED })
        }
        Ok([python, numpy, torch, Some(fewshot)]) => {
            Ok(Seeds { python: *python, numpy: *numpy, torch: *torch, fewshot: *fewshot })
        }
        _ => Err(format!("{text:?} is neither a whole number nor three or four of them, separated by commas")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_seeds_are_those_of_lm_eval() {
        assert_eq!(limit("60"), Ok(Limit::Count(60)));
        assert_eq!(limit("100.0"), Ok(Limit::Count(100)));
        assert_eq!(limit("0.1"), Ok(Limit::Share(0.1)));
        for refused in ["0", "-1", "1.5", "nan", "all"] {
            assert!(limit(refused).is_err(), "{refused}");
        }
        assert_eq!(seeds("7").unwrap().fewshot, 7);
        assert_eq!(seeds("0,1,2,3").unwrap().fewshot, 3);
        let three = seeds("0,None,8").unwrap();
        assert_eq!((three.python, three.numpy, three.torch, three.fewshot), (Some(0), None, Some(8), 1234));
        assert!(seeds("0,1").is_err() && seeds("0,1,2,None").is_err());
    }

    #[test]
    fn a_batch_is_a_number_or_automatic() {
        assert_eq!("auto:4".parse(), Ok(BatchSize::Auto));
        assert_eq!("8".parse(), Ok(BatchSize::Count(8)));
        assert!("0".parse::<BatchSize>().is_err() && "autos".parse::<BatchSize>().is_err());
    }
}
