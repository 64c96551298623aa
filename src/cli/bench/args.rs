//! What `bench` is asked for.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::super::grow::GrowthArgs;
use super::super::values::{DtypeArg, not_negative};
use super::BenchError;
use crate::kernel::quantized_linear::BlockFormat;
use crate::report::bench::{Format, Test, TestCase};

/// Sequences, threads and repetitions beyond which a number is taken for a typing error.
const MOST: usize = 4096;

/// Measure the speed of models: prefill, decoding, training steps. Output as llama-bench has it.
///
/// Lists and repeated options make the cross product. Times are those of `-r` repetitions on tokens of their own, after one
/// that warms up, two of training; tokenizing and sampling are not in them. t/s counts the tokens of all sequences.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// Hugging Face directories, .gguf files, or ids on the hub, org/name or org/name@revision
    #[arg(required = true, value_name = "MODEL")]
    pub models: Vec<String>,

    /// Tokens of a prompt, in one pass (test pp512); 0 for no such test [default: 512, none with --train]
    #[arg(short = 'p', long, value_name = "N", value_delimiter = ',', allow_negative_numbers = true, value_parser = not_negative, help_heading = "Tests")]
    pub n_prompt: Vec<usize>,
    /// Tokens to decode one by one (test tg128); 0 for no such test [default: 128, none with --train]
    #[arg(short = 'n', long, value_name = "N", value_delimiter = ',', allow_negative_numbers = true, value_parser = not_negative, help_heading = "Tests")]
    pub n_gen: Vec<usize>,
    /// A prompt, then decoding behind it (test pp512+tg128); also written -pg
    #[arg(long = "pg", value_name = "PP,TG", value_parser = prompt_and_gen, help_heading = "Tests")]
    pub n_pg: Vec<(usize, usize)>,
    /// Tokens that are in the cache before, not timed
    #[arg(short = 'd', long, value_name = "N", value_delimiter = ',', default_value = "0", allow_negative_numbers = true, value_parser = not_negative, help_heading = "Tests")]
    pub n_depth: Vec<usize>,
    /// Sequences at once
    #[arg(short = 'b', long, value_name = "N", value_delimiter = ',', default_value = "1", allow_negative_numbers = true, value_parser = from_one, help_heading = "Tests")]
    pub batch_size: Vec<usize>,
    /// Threads that compute [default: as many as the machine has]
    #[arg(short = 't', long, value_name = "N", value_delimiter = ',', allow_negative_numbers = true, value_parser = from_one, help_heading = "Tests")]
    pub threads: Vec<usize>,
    /// A whole training step on B sequences of S tokens in float32: forward, loss, backward, clipping, AdamW
    #[arg(long, value_name = "BxS", value_delimiter = ',', value_parser = train_size, help_heading = "Tests")]
    pub train: Vec<(usize, usize)>,
    /// Timed repetitions of each test
    #[arg(short = 'r', long, value_name = "N", default_value = "5", allow_negative_numbers = true, value_parser = from_one, help_heading = "Tests")]
    pub repetitions: usize,
    /// Begin with the first timed repetition
    #[arg(long, help_heading = "Tests")]
    pub no_warmup: bool,
    /// How to print
    #[arg(short = 'o', long, value_enum, value_name = "FORMAT", default_value_t = OutputArg::Md, help_heading = "Output")]
    pub output: OutputArg,

    /// Type in which matrices are kept [default: quantized where a GGUF file has them so, else float32]
    #[arg(long, value_enum, conflicts_with = "quant", help_heading = "Weights and device")]
    pub dtype: Option<DtypeArg>,
    /// Round matrices to blocks of integers; what a GGUF file has in blocks stays in those
    #[arg(long, value_enum, help_heading = "Weights and device")]
    pub quant: Option<QuantArg>,
    /// Where to compute: flex; or cuda, cuda:N, vulkan, ndarray, tch:cpu in builds that have them
    #[arg(long, default_value = "flex", help_heading = "Weights and device")]
    pub device: String,
    /// Write where the time of one more repetition of each test goes, as a Chrome trace (Perfetto, chrome://tracing)
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub trace: Option<PathBuf>,

    /// How to grow each model before it is measured; nothing is written.
    #[command(flatten)]
    pub growth: GrowthArgs,
}

/// `--output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputArg {
    /// A table.
    Md,
    /// One array of objects.
    Json,
    /// An object a line.
    Jsonl,
    /// Comma-separated values, without the samples.
    Csv,
}

/// `--quant`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QuantArg {
    /// 32 numbers of 8 bits with a scale.
    #[value(name = "q8_0")]
    Q8,
    /// 32 numbers of 4 bits with a scale.
    #[value(name = "q4_0")]
    Q4,
}

impl OutputArg {
    pub(super) fn format(self) -> Format {
        match self {
            Self::Md => Format::Markdown,
            Self::Json => Format::Json,
            Self::Jsonl => Format::JsonLines,
            Self::Csv => Format::Csv,
        }
    }
}

impl QuantArg {
    pub(super) fn format(self) -> BlockFormat {
        match self {
            Self::Q8 => BlockFormat::Q8_0,
            Self::Q4 => BlockFormat::Q4_0,
        }
    }
}

impl BenchArgs {
    /// The words of a command line, with `-pg` in the form that the parser takes.
    pub fn words(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
        let mut is_bench = false;
        let spelled = |word: OsString| {
            is_bench |= word == "bench";
            if is_bench && word == "-pg" { OsString::from("--pg") } else { word }
        };
        words.into_iter().map(spelled).collect()
    }

    /// Threads asked for.
    pub(super) fn threads(&self) -> Vec<usize> {
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        if self.threads.is_empty() { vec![all()] } else { self.threads.clone() }
    }

    /// The tests, in the order of llama-bench, those of training last.
    ///
    /// # Errors
    /// [`BenchError::NothingToMeasure`]; [`BenchError::BesideTrain`].
    pub(super) fn cases(&self) -> Result<Vec<TestCase>, BenchError> {
        let fixed = [("--dtype", self.dtype.is_some()), ("--quant", self.quant.is_some())];
        if let (false, Some((option, _))) = (self.train.is_empty(), fixed.into_iter().find(|(_, given)| *given)) {
            return Err(BenchError::BesideTrain { option });
        }
        let or_default = |given: &[usize], default| match (given.is_empty(), self.train.is_empty()) {
            (true, true) => vec![default],
            _ => given.to_vec(),
        };
        let prompts = or_default(&self.n_prompt, 512).into_iter().map(|n_prompt| (n_prompt, 0));
        let gens = or_default(&self.n_gen, 128).into_iter().map(|n_gen| (0, n_gen));
        let lengths: Vec<_> =
            prompts.chain(gens).chain(self.n_pg.iter().copied()).filter(|len| *len != (0, 0)).collect();
        let mut cases = Vec::new();
        for &batch_size in &self.batch_size {
            for n_threads in self.threads() {
                for &n_depth in &self.n_depth {
                    cases.extend(lengths.iter().map(|&(n_prompt, n_gen)| TestCase {
                        test: Test::Inference { n_prompt, n_gen, n_depth },
                        batch_size,
                        n_threads,
                    }));
                }
            }
        }
        for n_threads in self.threads() {
            cases.extend(self.train.iter().map(|&(batch_size, n_train)| TestCase {
                test: Test::Train { n_train },
                batch_size,
                n_threads,
            }));
        }
        if cases.is_empty() { Err(BenchError::NothingToMeasure) } else { Ok(cases) }
    }
}

fn from_one(text: &str) -> Result<usize, String> {
    match not_negative(text)? {
        number if (1..=MOST).contains(&number) => Ok(number),
        number => Err(format!("{number} is not from 1 to {MOST}")),
    }
}

fn prompt_and_gen(text: &str) -> Result<(usize, usize), String> {
    let refused = || format!("{text:?} is not a pair PP,TG, such as 512,128");
    let (prompt, gen_) = text.split_once(',').ok_or_else(refused)?;
    Ok((not_negative(prompt).map_err(|_| refused())?, not_negative(gen_).map_err(|_| refused())?))
}

fn train_size(text: &str) -> Result<(usize, usize), String> {
    let refused = || format!("{text:?} is not BxS, sequences and tokens of each, such as 4x256");
    let (batch_size, n_train) = text.split_once('x').ok_or_else(refused)?;
    match (from_one(batch_size), not_negative(n_train)) {
        (Ok(batch_size), Ok(n_train)) if n_train > 0 => Ok((batch_size, n_train)),
        _ => Err(refused()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn names(words: &str) -> Vec<String> {
        let words = format!("bench {words} model -t 3");
        let words = BenchArgs::words(words.split_whitespace().map(OsString::from));
        let cases = Line::try_parse_from(words).unwrap().args.cases().unwrap();
        cases.iter().map(|case| format!("{} b{}", case.name(), case.batch_size)).collect()
    }

    #[test]
    fn lists_make_the_cross_product_in_the_order_of_llama_bench() {
        assert_eq!(names(""), ["pp512 b1", "tg128 b1"]);
        assert_eq!(names("-p 8,16 -p 4 -n 0"), ["pp8 b1", "pp16 b1", "pp4 b1"]);
        assert_eq!(names("-p 0 -n 8 -d 0,32"), ["tg8 b1", "tg8 @ d32 b1"]);
        assert_eq!(names("-p 0 -n 8 -b 1,4 -pg 2,3"), ["tg8 b1", "pp2+tg3 b1", "tg8 b4", "pp2+tg3 b4"]);
    }

    #[test]
    fn training_comes_alone_unless_other_tests_are_named() {
        assert_eq!(names("--train 4x256,1x8"), ["train4x256 b4", "train1x8 b1"]);
        assert_eq!(names("--train 4x256 -n 2"), ["tg2 b1", "train4x256 b4"]);
    }

    #[test]
    fn pairs_and_sizes_have_one_spelling() {
        assert_eq!(prompt_and_gen("512,128"), Ok((512, 128)));
        for refused in ["512", "512,", "a,b", "1,2,3", "-1,2"] {
            assert!(prompt_and_gen(refused).is_err(), "{refused}");
        }
        assert_eq!(train_size("4x256"), Ok((4, 256)));
        for refused in ["4", "0x8", "4x0", "4x", "x8", "4*8", "5000x8"] {
            assert!(train_size(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn only_bench_has_a_short_option_of_two_letters() {
        let spelled = |words: &[&str]| BenchArgs::words(words.iter().map(OsString::from));
        assert_eq!(spelled(&["deepwide", "bench", "-pg"]), ["deepwide", "bench", "--pg"]);
        assert_eq!(spelled(&["deepwide", "grow", "-pg"]), ["deepwide", "grow", "-pg"]);
    }
}
