//! The model of a command that continues texts.

use std::path::{Path, PathBuf};

use clap::{Arg, Args};

use super::adapter::AdapterArgs;
use super::failure::Failure;
use super::gpu_layers::GpuLayersArgs;
use super::grow::{self, GrowthArgs};
use super::opened::OpenedModel;
use super::threads::ThreadsArgs;
use super::values::size;
use super::weights::WeightsArgs;
use super::{console, interrupt};
use crate::config::DecoderConfig;
use crate::device::device;
use crate::error::FileError;
use crate::formats::{Checkpoint, CheckpointError};
use crate::generate::TextModel;
use crate::kernel::linear::keeps_bfloat16;
use crate::model::{AnyDecoder, CausalLm};
use crate::output::read::read_bounded;
use crate::profile::memory::{cached_number_bytes, kv_cache_bytes_per_token};
use crate::profile::system_memory::{available_memory_bytes, total_memory_bytes};
use crate::tokenizer::{ChatTemplate, TEMPLATE_NAMES, Tokenizer, named_template};
use crate::weights::WeightSource;

/// Size of a template that no real one exceeds.
const TEMPLATE_BYTES: u64 = 1 << 20;

/// The model to run, and how.
#[derive(Debug, Clone, Args)]
#[command(mut_args(growth_option))]
pub struct ModelArgs {
    /// Hugging Face directory, .gguf file, or id on the hub: org/name or org/name@revision
    pub model: String,
    /// Tokens of a prompt and its output together [default: as in MODEL]
    #[arg(short = 'c', long, value_name = "N", value_parser = size, help_heading = "Model")]
    pub ctx_size: Option<usize>,
    /// Chat template: solar, or a Jinja file [default: as in MODEL]
    ///
    /// solar has the headings ### User: and ### Assistant:.
    #[arg(long, value_name = "NAME|FILE", help_heading = "Model")]
    pub chat_template: Option<String>,
    /// Experts per token of a mixture [default: as in MODEL]
    #[arg(long, value_name = "K", value_parser = size, help_heading = "Model")]
    pub top_k_experts: Option<usize>,
    /// The number of threads.
    #[command(flatten, next_help_heading = "Model")]
    pub threads: ThreadsArgs,
    /// How weights are loaded, and where.
    #[command(flatten, next_help_heading = "Model")]
    pub weights: WeightsArgs,
    /// llama.cpp's `-ngl`, accepted and ignored.
    #[command(flatten)]
    pub gpu_layers: GpuLayersArgs,
    /// An adapter for the model.
    #[command(flatten)]
    pub adapter: AdapterArgs,
    /// How the model is grown as it is loaded.
    #[command(flatten)]
    pub growth: GrowthArgs,
}

/// Puts the options of growth under one heading. `--top-k` and `--seed` belong to sampling here, so those of growth have other
/// names.
fn growth_option(arg: Arg) -> Arg {
    let arg = grow::brief(arg);
    let is_growth = arg.get_help_heading().is_some_and(|heading| ["Depth", "Width"].contains(&heading));
    let arg = if is_growth { arg.help_heading("Growth") } else { arg };
    match arg.get_id().as_str() {
        "top_k" => arg.long("moe-top-k"),
        "seed" => arg.long("growth-seed"),
        _ => arg,
    }
}

/// A model that is ready to run.
pub(super) struct Loaded {
    pub(super) text_model: TextModel,
    pub(super) template: Option<ChatTemplate>,
    /// The last component of its path or id, and how it was grown.
    pub(super) name: String,
    /// Bytes of the keys and values of a position.
    pub(super) position_bytes: u128,
    /// Positions of earlier prompts that fit in memory together with the running texts.
    pub(super) max_cached_positions: usize,
}

impl ModelArgs {
    /// Opens, checks and loads the model, for `num_sequences` sequences at once. `num_tokens` gives the most tokens of each, which
    /// may depend on a prompt.
    ///
    /// # Errors
    /// If a file is bad, an option does not fit the model, or memory does not suffice.
    pub(super) fn load(
        &self,
        num_sequences: usize,
        num_tokens: impl FnOnce(&Tokenizer, Option<&ChatTemplate>) -> Result<usize, Failure>,
    ) -> Result<Loaded, Failure> {
        self.gpu_layers.note();
        let device = device(&self.weights.device)?;
        self.weights.check(&device)?;
        let opened = OpenedModel::new(&self.model, Some(&self.growth))?.with_adapter(&self.adapter)?;
        let growth = opened.growth()?;
        let config = growth.source.config();
        let context = self.context(config)?;
        let tokenizer = opened.checkpoint().tokenizer()?;
        if tokenizer.vocab_size() > config.vocab_size {
            let (found, rows) = (tokenizer.vocab_size(), config.vocab_size);
            let model = &self.model;
            return Err(Failure::invalid(format_args!(
                "{model:?}: the tokenizer has {found} ids, expected at most the {rows} rows of the embedding table"
            )));
        }
        if tokenizer.eos().is_empty() {
            console::tell(format_args!("note: {:?} names no token that ends a text", self.model));
        }
        let template = self.template(opened.checkpoint())?;
        let precision = self.weights.inference_precision();
        let weight_bytes = AnyDecoder::foresee(&growth.source, precision, &device)?.size_bytes();
        let num_tokens = num_tokens(&tokenizer, template.as_ref())?.min(context);
        let needed_bytes = fits(config, weight_bytes, num_sequences, num_tokens)?;
        let cached_bytes = cached_number_bytes(precision.product_dtype(), keeps_bfloat16(&device));
        let position_bytes = kv_cache_bytes_per_token(config, cached_bytes);
        let max_cached_positions = cached_positions(position_bytes, needed_bytes, context);
        let model = console::timed("loaded", || AnyDecoder::load_as(&growth.source, precision, &device))?;
        let model = self.with_experts(model)?;
        let name = opened.full_name(&growth);
        let name = Path::new(&name).file_name().map_or(name.clone(), |last| last.to_string_lossy().into());
        let text_model = TextModel::new(model, tokenizer, context, device);
        Ok(Loaded { text_model, template, name, position_bytes, max_cached_positions })
    }

    fn context(&self, config: &DecoderConfig) -> Result<usize, Failure> {
        let most = config.max_position_embeddings;
        match self.ctx_size {
            Some(asked) if asked > most => {
                let message = format!("the model has {most} positions, expected at most that many");
                Err(Failure::invalid(message).for_option(format_args!("--ctx-size {asked}")))
            }
            asked => Ok(asked.unwrap_or(most)),
        }
    }

    fn with_experts(&self, model: AnyDecoder) -> Result<AnyDecoder, Failure> {
        let Some(count) = self.top_k_experts else { return Ok(model) };
        let option = format!("--top-k-experts {count}");
        match model.with_experts_per_token(count) {
            Ok(Some(model)) => Ok(model),
            Ok(None) => Err(Failure::invalid("the model has no experts").for_option(option)),
            Err(error) => Err(Failure::invalid(error).for_option(option)),
        }
    }

    /// The template that was asked for, or that of the model, if it has one.
    fn template(&self, checkpoint: &Checkpoint) -> Result<Option<ChatTemplate>, Failure> {
        let Some(given) = &self.chat_template else {
            return match checkpoint.chat_template(None) {
                Ok(template) => Ok(Some(template)),
                Err(CheckpointError::NoChatTemplate { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            };
        };
        if let Some(source) = named_template(given) {
            return Ok(Some(checkpoint.other_chat_template(Path::new(given), source)?));
        }
        let path = PathBuf::from(given);
        let source = read_bounded(&*interrupt::disk(), &path, TEMPLATE_BYTES).map_err(|error: FileError| {
            let known = TEMPLATE_NAMES.join(", ");
            Failure::of_kind(error.kind(), format_args!("{error} (names of templates: {known})"))
        })?;
        let source = String::from_utf8(source)
            .map_err(|_| Failure::invalid(format_args!("{path:?} is not UTF-8 text, expected a Jinja template")))?;
        Ok(Some(checkpoint.other_chat_template(&path, &source)?))
    }
}

/// Checks that weights and cache fit the memory of this machine, where it is known, and returns what they need. The cache of running
/// texts begins in float32.
fn fits(config: &DecoderConfig, weight_bytes: u64, num_sequences: usize, num_tokens: usize) -> Result<u128, Failure> {
    let cache_bytes = kv_cache_bytes_per_token(config, 4) * num_sequences as u128 * num_tokens as u128;
    let needed_bytes = cache_bytes + u128::from(weight_bytes);
    match total_memory_bytes() {
        Some(memory) if needed_bytes > u128::from(memory) => {
            let gib = |bytes: u128| bytes as f64 / f64::from(1 << 30);
            Err(Failure::too_large(format_args!(
                "{num_sequences} texts of {num_tokens} tokens need {:.1} GiB and the weights {:.1} GiB, expected at most the \
                 {:.1} GiB of this machine: --ctx-size makes texts shorter",
                gib(cache_bytes),
                gib(weight_bytes.into()),
                gib(memory.into()),
            )))
        }
        _ => Ok(needed_bytes),
    }
}

/// Positions of earlier prompts to keep: those of one context, if they fit half of the memory that is now available beyond the
/// needed bytes.
fn cached_positions(position_bytes: u128, needed_bytes: u128, context: usize) -> usize {
    let Some(available) = available_memory_bytes() else { return context };
    let positions = u128::from(available).saturating_sub(needed_bytes) / 2 / position_bytes;
    usize::try_from(positions).map_or(context, |positions| positions.min(context))
}

impl Loaded {
    /// The template of chats.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn chat_template(&self) -> Result<&ChatTemplate, Failure> {
        self.template.as_ref().ok_or_else(|| {
            let name = &self.name;
            Failure::invalid(format_args!(
                "{name:?} has no chat template (--chat-template solar, or a file, gives one)"
            ))
        })
    }

    /// Layers and experts of each; none of a dense model.
    pub(super) fn experts(&self) -> Option<(usize, usize)> {
        let config = self.text_model.model.config();
        config.moe.map(|moe| (config.num_hidden_layers, moe.num_local_experts))
    }
}
