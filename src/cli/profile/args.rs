//! The arguments of `profile`.

use clap::{Args, ValueEnum};

use super::super::bench::{Sizes, counts, one_count, sizes, train_size};
use super::super::failure::Failure;
use super::super::grow::{GrowthArgs, brief};
use super::super::values::{DtypeArg, check_training_dtype};
use crate::bench::{Grid, TestCase};
use crate::load::Precision;
use crate::profile::convention::FlopConvention;

/// Show parameters, FLOPs, bytes and time by module
///
/// Counts come from the config. Bytes are those of weights, keys and values. Times are medians of repetitions, beside peaks that
/// are measured before and after. Kernels are timed by device events where the device has them; otherwise each module by the
/// host's clock, which waits for the device. Options of growth change the model as it is loaded; nothing is written.
#[derive(Debug, Clone, Args)]
#[command(mut_args(brief))]
pub struct ProfileArgs {
    /// Hugging Face directory, .gguf file, or id on the hub: org/name or org/name@revision
    ///
    /// With --dry-run also a config.json, or a published shape: mistral-7b, llama2-7b, solar-10.7b, mixtral-8x7b, smollm2-135m.
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Prompt tokens in one pass; 0 skips the test [default: 512]
    ///
    /// With --train, it runs only if this option is given.
    #[arg(short = 'p', long, value_name = "N", value_delimiter = ',', value_parser = sizes, help_heading = "Tests")]
    pub n_prompt: Vec<Sizes>,
    /// Tokens decoded one at a time; 0 skips the test [default: 32]
    ///
    /// With --train, it runs only if this option is given.
    #[arg(short = 'n', long, value_name = "N", value_delimiter = ',', value_parser = sizes, help_heading = "Tests")]
    pub n_gen: Vec<Sizes>,
    /// Tokens in the cache before the test
    #[arg(short = 'd', long, value_name = "N", value_delimiter = ',', default_value = "0", value_parser = sizes, help_heading = "Tests")]
    pub n_depth: Vec<Sizes>,
    /// Sequences at once
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1", value_parser = counts, help_heading = "Tests")]
    pub sequences: Vec<Sizes>,
    /// Training steps on B sequences of S tokens
    ///
    /// They are in float32, or in mixed precision with --dtype bfloat16.
    #[arg(long, value_name = "BxS", value_delimiter = ',', value_parser = train_size, help_heading = "Tests")]
    pub train: Vec<(usize, usize)>,
    /// Threads [default: all cores]
    #[arg(short = 't', long, value_name = "N", value_parser = one_count, help_heading = "Tests")]
    pub threads: Option<usize>,
    /// Timed repetitions
    #[arg(short = 'r', long, value_name = "N", default_value = "5", value_parser = one_count, help_heading = "Tests")]
    pub repetitions: usize,
    /// Count only, from headers or a config alone
    #[arg(long, visible_alias = "dry", help_heading = "Tests")]
    pub dry_run: bool,
    /// What counts as FLOPs: causal, square, 6nd, palm
    ///
    /// causal: products, and the scores of tokens that a token sees, as they are executed. square: all scores, masked or not. 6nd:
    /// 2 FLOPs forward and 4 backward per active parameter and token. palm: 6nd and all scores, the numerator of PaLM's MFU.
    #[arg(
        long,
        value_enum,
        value_name = "NAME",
        default_value = "causal",
        hide_possible_values = true,
        help_heading = "Counting"
    )]
    pub convention: ConventionArg,
    /// FLOPs of a multiply-add: 2, or 1 to count MACs
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u8).range(1..=2), hide_short_help = true, help_heading = "Counting")]
    pub flops_per_mac: u8,
    /// Also show memory by kind: predicted and, unless this is a dry run, measured
    ///
    /// Kinds: weights, keys and values, optimizer, gradients, activations. With --json, also over time. tch is not measured.
    #[arg(long, help_heading = "Output")]
    pub memory: bool,
    /// Print one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Type of the matrices: float32, float16, bfloat16 [default: as quantized in a GGUF file, else float32]
    #[arg(
        long,
        value_enum,
        value_name = "TYPE",
        hide_possible_values = true,
        hide_short_help = true,
        help_heading = "Weights and device"
    )]
    pub dtype: Option<DtypeArg>,
    /// Device: flex; in builds with their features also cuda, cuda:1, vulkan, wgpu, ndarray, tch:cpu
    #[arg(long, default_value = "flex", help_heading = "Weights and device")]
    pub device: String,
    /// How to grow the model before it is profiled.
    #[command(flatten)]
    pub growth: GrowthArgs,
}

/// `--convention`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ConventionArg {
    /// What kernels execute.
    Causal,
    /// All scores, masked or not.
    Square,
    /// `6·N·D`.
    #[value(name = "6nd")]
    SixNd,
    /// `6·N + 12·L·H·Q·T` a token.
    Palm,
}

impl ConventionArg {
    pub(super) fn convention(self) -> FlopConvention {
        match self {
            Self::Causal => FlopConvention::Causal,
            Self::Square => FlopConvention::Square,
            Self::SixNd => FlopConvention::SixNd,
            Self::Palm => FlopConvention::Palm,
        }
    }
}

impl ProfileArgs {
    /// The precision asked for.
    pub(super) fn precision(&self) -> Option<Precision> {
        self.dtype.map(|dtype| Precision::Float(dtype.dtype()))
    }

    /// The tests: prompts and decoding for each depth and number of sequences, then training.
    ///
    /// # Errors
    /// If there is none, or training is asked for in float16.
    pub(super) fn cases(&self, n_threads: usize) -> Result<Vec<TestCase>, Failure> {
        if !self.train.is_empty() {
            check_training_dtype(self.dtype)?;
        }
        let all = |lists: &[Sizes]| lists.iter().flat_map(|Sizes(numbers)| numbers.iter().copied()).collect::<Vec<_>>();
        let or_default = |lists: &[Sizes], default| match lists.is_empty() && self.train.is_empty() {
            true => vec![default],
            false => all(lists),
        };
        let grid = Grid {
            n_prompt: or_default(&self.n_prompt, 512),
            n_gen: or_default(&self.n_gen, 32),
            n_pg: Vec::new(),
            n_depth: all(&self.n_depth),
            batch_size: all(&self.sequences),
            n_threads: vec![n_threads],
            train: self.train.clone(),
        };
        Ok(grid.cases()?)
    }
}
