//! The arguments of `bench`.

use std::path::PathBuf;

use clap::{Arg, Args, ValueEnum};

use super::super::failure::Failure;
use super::super::grow::GrowthArgs;
use super::super::values::check_training_dtype;
use super::super::weights::WeightsArgs;
use super::peer::PeerArgs;
use super::sizes::{Sizes, counts, one_count, prompt_and_gen, sizes, train_size};
use crate::bench::{Format, Grid};

/// Measure speed: prefill, decoding, training steps; as llama-bench does
///
/// N is a number, a list 1,2,4 or a range: 8-32 (each), 8-32+8 (every eighth), 8-64*2 (doubling). Lists and repeated
/// options make the cross product. Each repetition has tokens of its own; tokenizing and sampling are not timed. t/s counts
/// the tokens of all sequences. Options of growth change the model as it is loaded; nothing is written.
#[derive(Debug, Clone, Args)]
#[command(mut_args(brief))]
pub struct BenchArgs {
    /// Hugging Face directories, .gguf files, or ids on the hub: org/name or org/name@revision
    #[arg(value_name = "MODEL", required_unless_present = "model")]
    pub models: Vec<String>,
    /// Another MODEL, as in llama-bench
    #[arg(short, long, value_name = "MODEL", value_delimiter = ',', help_heading = "Tests")]
    pub model: Vec<String>,

    /// Prompt tokens in one pass (pp512) [default: 512]
    ///
    /// 0 skips this test. With --train, it runs only if this option is given.
    #[arg(short = 'p', long, value_name = "N", value_delimiter = ',', allow_negative_numbers = true, value_parser = sizes, help_heading = "Tests")]
    pub n_prompt: Vec<Sizes>,
    /// Tokens decoded one at a time (tg128) [default: 128]
    ///
    /// 0 skips this test. With --train, it runs only if this option is given.
    #[arg(short = 'n', long, value_name = "N", value_delimiter = ',', allow_negative_numbers = true, value_parser = sizes, help_heading = "Tests")]
    pub n_gen: Vec<Sizes>,
    /// A prompt, then decoding (pp512+tg128); also -pg
    #[arg(long = "pg", value_name = "PP,TG", value_parser = prompt_and_gen, help_heading = "Tests")]
    pub n_pg: Vec<(usize, usize)>,
    /// Tokens in the cache before the test
    #[arg(short = 'd', long, value_name = "N", value_delimiter = ',', default_value = "0", allow_negative_numbers = true, value_parser = sizes, help_heading = "Tests")]
    pub n_depth: Vec<Sizes>,
    /// Sequences at once; also -npl
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1", allow_negative_numbers = true, value_parser = counts, help_heading = "Tests")]
    pub sequences: Vec<Sizes>,
    /// Threads [default: all cores]
    #[arg(short = 't', long, value_name = "N", value_delimiter = ',', allow_negative_numbers = true, value_parser = counts, help_heading = "Tests")]
    pub threads: Vec<Sizes>,
    /// Training steps on B sequences of S tokens
    ///
    /// A step is forward, loss, backward, clipping and AdamW, in float32, or in mixed precision with --dtype bfloat16.
    #[arg(long, value_name = "BxS", value_delimiter = ',', value_parser = train_size, help_heading = "Tests")]
    pub train: Vec<(usize, usize)>,
    /// Timed repetitions of each test
    #[arg(short = 'r', long, value_name = "N", default_value = "5", allow_negative_numbers = true, value_parser = one_count, help_heading = "Tests")]
    pub repetitions: usize,
    /// Skip the untimed repetitions before the timed ones: one of inference, two of training
    #[arg(long, help_heading = "Tests")]
    pub no_warmup: bool,
    /// Seconds to wait before each test
    #[arg(long, value_name = "S", default_value = "0", allow_negative_numbers = true, help_heading = "Tests")]
    pub delay: u16,

    /// Format of stdout
    #[arg(short = 'o', long, value_enum, value_name = "md|json|jsonl|csv|sql", hide_possible_values = true, default_value_t = OutputArg::Md, help_heading = "Output")]
    pub output: OutputArg,
    /// Print a line on stderr before each test
    #[arg(long, help_heading = "Output")]
    pub progress: bool,
    /// Write a Chrome trace that shows where the time goes
    ///
    /// One more repetition of each test is traced, for Perfetto or chrome://tracing.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub trace: Option<PathBuf>,

    /// How weights are loaded, and where.
    #[command(flatten, next_help_heading = "Weights and device")]
    pub weights: WeightsArgs,

    /// How to grow each model before it is measured.
    #[command(flatten)]
    pub growth: GrowthArgs,

    /// Options of llama-bench.
    #[command(flatten)]
    pub peer: PeerArgs,
}

/// Leaves the rarer options to `--help`.
fn brief(arg: Arg) -> Arg {
    const SHOWN: [&str; 16] = [
        "models",
        "n_prompt",
        "n_gen",
        "n_pg",
        "n_depth",
        "sequences",
        "threads",
        "train",
        "repetitions",
        "output",
        "trace",
        "dtype",
        "quant",
        "device",
        "dus",
        "moe",
    ];
    let is_shown = SHOWN.contains(&arg.get_id().as_str());
    if is_shown { arg } else { arg.hide_short_help(true) }
}

/// `--output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputArg {
    /// A table.
    Md,
    /// One array of objects.
    Json,
    /// One object per line.
    Jsonl,
    /// Comma-separated values, without the samples.
    Csv,
    /// Statements for SQLite, without the samples.
    Sql,
}

impl OutputArg {
    pub(super) fn format(self) -> Format {
        match self {
            Self::Md => Format::Markdown,
            Self::Json => Format::Json,
            Self::Jsonl => Format::JsonLines,
            Self::Csv => Format::Csv,
            Self::Sql => Format::Sql,
        }
    }
}

impl BenchArgs {
    /// All models, positional ones first.
    pub(super) fn all_models(&self) -> impl Iterator<Item = &String> {
        self.models.iter().chain(&self.model)
    }

    /// The tests asked for.
    ///
    /// # Errors
    /// If training is asked for in blocks or float16.
    pub(super) fn grid(&self) -> Result<Grid, Failure> {
        if !self.train.is_empty() {
            if self.weights.quant.is_some() {
                return Err(Failure::usage("--quant cannot be used with --train"));
            }
            check_training_dtype(self.weights.dtype)?;
        }
        let all = |lists: &[Sizes]| lists.iter().flat_map(|Sizes(numbers)| numbers.iter().copied()).collect::<Vec<_>>();
        let or_default = |lists: &[Sizes], default| match lists.is_empty() && self.train.is_empty() {
            true => vec![default],
            false => all(lists),
        };
        Ok(Grid {
            n_prompt: or_default(&self.n_prompt, 512),
            n_gen: or_default(&self.n_gen, 128),
            n_pg: self.n_pg.clone(),
            n_depth: all(&self.n_depth),
            batch_size: all(&self.sequences),
            n_threads: if self.threads.is_empty() { vec![num_cores()] } else { all(&self.threads) },
            train: self.train.clone(),
        })
    }
}

/// Cores of the machine.
pub(in crate::cli) fn num_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::Parser;

    use super::super::spelled;
    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn parsed(words: &str) -> BenchArgs {
        let words = format!("bench {words} -t 3");
        Line::try_parse_from(spelled(words.split_whitespace().map(OsString::from))).unwrap().args
    }

    fn names(words: &str) -> Vec<String> {
        let cases = parsed(&format!("{words} model")).grid().unwrap().cases().unwrap();
        cases.iter().map(|case| format!("{} b{}", case.name(), case.batch_size)).collect()
    }

    #[test]
    fn lists_make_the_cross_product_in_the_order_of_llama_bench() {
        assert_eq!(names(""), ["pp512 b1", "tg128 b1"]);
        assert_eq!(names("-p 8,16 -p 4 -n 0"), ["pp8 b1", "pp16 b1", "pp4 b1"]);
        assert_eq!(names("-p 8-16+8,4 -n 0"), ["pp8 b1", "pp16 b1", "pp4 b1"]);
        assert_eq!(names("-p 0 -n 8 -d 0,32"), ["tg8 b1", "tg8 @ d32 b1"]);
        assert_eq!(names("-p 0 -n 8 -npl 1,4 -pg 2,3"), ["tg8 b1", "pp2+tg3 b1", "tg8 b4", "pp2+tg3 b4"]);
    }

    #[test]
    fn training_comes_alone_unless_other_tests_are_named() {
        assert_eq!(names("--train 4x256,1x8"), ["train4x256 b4", "train1x8 b1"]);
        assert_eq!(names("--train 4x256 -n 2"), ["tg2 b1", "train4x256 b4"]);
    }

    #[test]
    fn models_are_positional_or_named_by_m() {
        let models = |words: &str| parsed(words).all_models().cloned().collect::<Vec<_>>();
        assert_eq!(models("-m a -m b,c"), ["a", "b", "c"]);
        assert_eq!(models("a -ngl 99 -fa 1 -m b"), ["a", "b"]);
    }

    #[test]
    fn the_batch_of_llama_bench_is_not_a_number_of_sequences() {
        assert_eq!(names("-b 2048 -ub 512 -p 8 -n 0"), ["pp8 b1"]);
    }
}
