//! `perplexity`: how well a model predicts a text.

use std::fs;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::adapter::AdapterArgs;
use super::counters::Count;
use super::failure::Failure;
use super::gpu_layers::GpuLayersArgs;
use super::grow::{GrowthArgs, brief};
use super::opened::OpenedModel;
use super::threads::ThreadsArgs;
use super::values::size;
use super::weights::WeightsArgs;
use super::{interrupt, output};
use crate::config::DecoderConfig;
use crate::device::device;
use crate::error::FileError;
use crate::eval::{Convention, Divergence, Encoder, EvalError, Perplexity, divergence, perplexity, text_windows};
use crate::formats::Checkpoint;
use crate::load::Precision;
use crate::model::AnyDecoder;
use crate::profile::flops::count_parameters;
use crate::weights::WeightSource;

/// Tokens of a pass.
const MAX_TOKENS: usize = 2048;
/// The context of llama-perplexity.
const LLAMA_CONTEXT: usize = 512;
/// The stride of the guide of transformers.
const STRIDE: usize = 512;

/// Compute the perplexity of a text
///
/// Options of grow (--dus, --moe, ...) grow the model first. With --kl BASE, the distributions of the model are also compared with
/// those of BASE. -m FILE and -ngl are understood as llama-perplexity's.
#[derive(Debug, Clone, Args)]
#[command(mut_args(brief))]
pub struct PerplexityArgs {
    /// The model: a Hugging Face directory, a .gguf file, or an id on the hub
    pub model: String,
    /// The text
    #[arg(long, short, value_name = "FILE")]
    pub file: PathBuf,
    /// llama: separate windows, the second half of each is scored; transformers: overlapping windows
    ///
    /// llama is the convention of llama-perplexity, transformers that of the guide of Hugging Face's transformers, with --stride. The
    /// two give different numbers for one model. The default is llama, or transformers if --stride is given.
    #[arg(long, value_enum, value_name = "NAME", hide_possible_values = true)]
    pub convention: Option<ConventionArg>,
    /// Tokens per window [default: 512, or the context of the model with --convention transformers]
    #[arg(long = "ctx-size", short = 'c', value_name = "N", value_parser = size)]
    pub context: Option<usize>,
    /// Tokens from one window to the next [default: 512, or the window]
    #[arg(long, value_name = "N", value_parser = size)]
    pub stride: Option<usize>,
    /// Windows to score [default: all]
    #[arg(long, value_name = "N", value_parser = size)]
    pub chunks: Option<usize>,
    /// Compare with the distributions of this model: mean and largest divergence, same most likely token
    ///
    /// --dtype and --quant do not change BASE, so that `perplexity MODEL --quant q4_0 --kl MODEL` shows what rounding changes.
    #[arg(long, value_name = "BASE")]
    pub kl: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// How weights are loaded, and where. BASE is loaded with the default precision.
    #[command(flatten)]
    pub weights: WeightsArgs,
    /// The number of threads.
    #[command(flatten)]
    pub threads: ThreadsArgs,
    /// llama.cpp's `-ngl`, accepted and ignored.
    #[command(flatten)]
    pub gpu_layers: GpuLayersArgs,
    /// An adapter for the model.
    #[command(flatten)]
    pub adapter: AdapterArgs,
    /// How the model is grown.
    #[command(flatten)]
    pub growth: GrowthArgs,
}

/// `--convention`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ConventionArg {
    /// That of llama-perplexity.
    Llama,
    /// That of the guide of transformers.
    Transformers,
}

/// Computes the perplexity of a text.
///
/// # Errors
/// Any invalid input, before the model is loaded; then errors of computation.
pub fn run(args: &PerplexityArgs) -> Result<(), Failure> {
    args.threads.run(|| score(args))
}

fn score(args: &PerplexityArgs) -> Result<(), Failure> {
    args.gpu_layers.note();
    let opened = OpenedModel::new(&args.model, Some(&args.growth))?.with_adapter(&args.adapter)?;
    let growth = opened.growth()?;
    let device = device(&args.weights.device)?;
    args.weights.check(&device)?;
    let config = growth.source.config();
    let (convention, context) = args.windows(config)?;
    let text = fs::read_to_string(&args.file).map_err(FileError::io(&args.file))?;
    let tokenizer = opened.checkpoint().tokenizer()?;
    let ids = Encoder::new(&tokenizer, config.max_position_embeddings, config.vocab_size)?.encode(&text)?;
    let bos = tokenizer.bos().filter(|bos| ids.first() == Some(bos));
    let windows = text_windows(&ids, convention, context, bos, args.chunks)?;
    let base = args.kl.as_ref().map(|base| OpenedModel::new(base, None)).transpose()?;
    if let Some(base) = &base {
        let checked =
            check_base(base.checkpoint(), config, context).and_then(|()| check_ids(base.checkpoint(), &text, &ids));
        checked.map_err(|failure| failure.for_option("--kl"))?;
    }
    let base = base.as_ref().map(OpenedModel::growth).transpose()?;
    let model = AnyDecoder::load_as(&growth.source, args.weights.inference_precision(), &device)?;
    interrupt::catch();
    let go_on = || interrupt::caught().map_or(Ok(()), |_| Err(EvalError::Stopped));
    let bar = Count::new("perplexity", "windows", windows.len());
    let found = perplexity(&model, &windows, MAX_TOKENS, &device, &mut |count, so_far| {
        bar.add(count, format!("perplexity {so_far:.4}"));
        go_on()
    })?;
    drop(bar);
    let compared = match base {
        None => None,
        Some(growth) => {
            let base = AnyDecoder::load_as(&growth.source, Precision::Blocks(None), &device)?;
            let bar = Count::new("divergence", "windows", windows.len());
            Some(divergence(&model, &base, &windows, MAX_TOKENS, &device, &mut |count| {
                bar.add(count, "");
                go_on()
            })?)
        }
    };
    let bits_per_byte = found.nats_per_token / std::f64::consts::LN_2 * ids.len() as f64 / text.len() as f64;
    output::print(&if args.json {
        let mut record: Map<String, Value> = json!(found).as_object().cloned().unwrap_or_default();
        let rest = json!({
            "bits_per_byte": bits_per_byte,
            "convention": args.name(convention),
            "context": context,
            "stride": if let Convention::Transformers { stride } = convention { Some(stride) } else { None },
            "num_windows": windows.len(),
            "model": opened.name(),
            "growth": growth.record(),
            "parameters": count_parameters(config),
            "divergence": compared,
        });
        record.extend(rest.as_object().cloned().unwrap_or_default());
        record.extend(args.weights.given().map(|(option, value)| (option.to_owned(), json!(value))));
        format!("{:#}\n", Value::Object(record))
    } else {
        as_text(&found, bits_per_byte, compared.as_ref())
    })
}

/// Checks that BASE has as many ids as the model, and a position for each token of a window.
fn check_base(base: &Checkpoint, config: &DecoderConfig, context: usize) -> Result<(), Failure> {
    let (found, expected) = (base.config().vocab_size, config.vocab_size);
    if found != expected {
        return Err(Failure::invalid(format_args!("BASE has {found} ids, expected the {expected} of the model")));
    }
    let positions = base.config().max_position_embeddings;
    if context > positions {
        return Err(Failure::invalid(format_args!(
            "BASE has {positions} positions, expected at least the {context} of a window (--ctx-size)"
        )));
    }
    Ok(())
}

/// Checks that the tokenizer of BASE gives the ids of the model, so that both distributions are over the same tokens.
fn check_ids(base: &Checkpoint, text: &str, expected: &[u32]) -> Result<(), Failure> {
    let (tokenizer, config) = (base.tokenizer()?, base.config());
    let found = Encoder::new(&tokenizer, config.max_position_embeddings, config.vocab_size)?.encode(text)?;
    let shown = |ids: &[u32], at: usize| ids.get(at).map_or("none".to_owned(), u32::to_string);
    match (0..found.len().max(expected.len())).find(|at| found.get(*at) != expected.get(*at)) {
        None => Ok(()),
        Some(at) => Err(Failure::invalid(format_args!(
            "the tokenizer of BASE gives id {} for token {at} of the text, expected {}, as that of the model",
            shown(&found, at),
            shown(expected, at),
        ))),
    }
}

impl PerplexityArgs {
    /// The convention and the tokens of a window.
    fn windows(&self, config: &DecoderConfig) -> Result<(Convention, usize), Failure> {
        let positions = config.max_position_embeddings;
        let default = if self.stride.is_some() { ConventionArg::Transformers } else { ConventionArg::Llama };
        let convention = self.convention.unwrap_or(default);
        let context = self.context.unwrap_or(match convention {
            ConventionArg::Llama => LLAMA_CONTEXT.min(positions),
            ConventionArg::Transformers => positions,
        });
        if !(4..=positions).contains(&context) {
            let message =
                format!("found windows of {context} tokens, expected 4 to {positions}, the context of the model");
            return Err(Failure::invalid(message).for_option("--ctx-size"));
        }
        match (convention, self.stride) {
            (ConventionArg::Llama, None) => Ok((Convention::LlamaCpp, context)),
            (ConventionArg::Llama, Some(_)) => Err(Failure::usage("--stride is for --convention transformers")),
            (ConventionArg::Transformers, stride) => {
                let stride = stride.unwrap_or(STRIDE.min(context));
                if stride > context {
                    let message = format!("found {stride}, expected at most the {context} tokens of a window");
                    return Err(Failure::invalid(message).for_option("--stride"));
                }
                Ok((Convention::Transformers { stride }, context))
            }
        }
    }

    fn name(&self, convention: Convention) -> &'static str {
        match convention {
            Convention::LlamaCpp => "llama",
            Convention::Transformers { .. } => "transformers",
        }
    }
}

/// The line of llama-perplexity, then a line for each other quantity.
fn as_text(found: &Perplexity, bits_per_byte: f64, compared: Option<&Divergence>) -> String {
    let mut rows = vec![
        ["bits per byte".to_owned(), format!("{bits_per_byte:.4}")],
        ["nats per token".to_owned(), format!("{:.4}", found.nats_per_token)],
        ["scored tokens".to_owned(), found.num_tokens.to_string()],
    ];
    if let Some(compared) = compared {
        rows.extend([
            ["mean KL".to_owned(), format!("{:.6} ± {:.6} nats", compared.mean_kl_nats, compared.stderr)],
            ["99 % KL".to_owned(), format!("{:.6} nats", compared.p99_kl_nats)],
            ["largest KL".to_owned(), format!("{:.6} nats", compared.max_kl_nats)],
            ["same top-1 token".to_owned(), format!("{:.2} %", 100.0 * compared.same_top_1)],
        ]);
    }
    let rows: Vec<Vec<String>> = rows.into_iter().map(|row| row.to_vec()).collect();
    // The standard error of one token is no number.
    let stderr = if found.stderr.is_finite() { format!(" +/- {:.5}", found.stderr) } else { String::new() };
    format!("Final estimate: PPL = {:.4}{stderr}\n{}", found.perplexity, output::aligned(&rows))
}
