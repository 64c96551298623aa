//! A model to measure, opened and checked, not loaded.

use burn::tensor::Device;

use super::super::failure::Failure;
use super::super::grow::{Growth, grown};
use super::super::output::size;
use super::super::run_info::words;
use super::super::values::DtypeArg;
use super::weights::{LeastBytes, Weights};
use super::{BenchArgs, BenchError};
use crate::config::{DecoderConfig, ModelType};
use crate::formats::Checkpoint;
use crate::kernel::quantized_linear::{BlockFormat, keeps_blocks};
use crate::model::{AnyDecoder, Footprint, Precision};
use crate::profile::flops::count_parameters;
use crate::profile::memory;
use crate::profile::system_memory::total_memory_bytes;
use crate::report::bench::{BenchModel, Test, TestCase};
use crate::weights::{WeightError, WeightSource};

/// A model to measure.
pub(super) struct Target<'a> {
    name: String,
    growth: Growth<'a>,
    is_grown: bool,
    precision: Precision,
    /// What the number types of the file are called together, if they are kept.
    file_type: Option<&'static str>,
    weights: LeastBytes,
}

impl<'a> Target<'a> {
    /// Grows a checkpoint and holds the tests against its config.
    ///
    /// # Errors
    /// If it cannot be grown so, or a test does not fit it or the machine.
    pub fn new(
        name: &str,
        checkpoint: &'a Checkpoint,
        args: &BenchArgs,
        cases: &[TestCase],
        device: &Device,
    ) -> Result<Self, Failure> {
        let growth = grown(checkpoint, name, &args.growth)?;
        let is_grown = !args.growth.options().is_empty();
        let precision = match (args.quant, args.dtype) {
            (Some(quant), _) => Precision::Blocks(Some(quant.format())),
            (None, Some(dtype)) => Precision::Float(dtype.dtype()),
            (None, None) if has_blocks(checkpoint) => Precision::Blocks(None),
            (None, None) => Precision::Float(DtypeArg::Float32.dtype()),
        };
        let stored = |id| match checkpoint {
            Checkpoint::Gguf(file) => BlockFormat::from_name(file.ggml_type(id).name),
            Checkpoint::Hf(_) => None,
        };
        let experts_differ = [args.growth.noise, args.growth.drop].into_iter().flatten().any(|size| size > 0.0);
        let source = &growth.source;
        let weights = Weights { source, precision, stored: &stored, experts_differ }.least_bytes();
        let keeps_all = precision == Precision::Blocks(None) && !experts_differ && args.growth.granularity.is_none();
        let file_type = if keeps_all { checkpoint.file_type()? } else { None };
        let target = Self { name: words(name), growth, is_grown, precision, file_type, weights };
        if args.quant.is_some() {
            target.fills_blocks(&args.device, device)?;
        }
        cases.iter().try_for_each(|case| target.fits(case))?;
        Ok(target)
    }

    /// Its shape.
    pub fn config(&self) -> &DecoderConfig {
        self.growth.source.config()
    }

    /// As it was named.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Loads it for inference.
    ///
    /// # Errors
    /// What the source says.
    pub fn load(&self, device: &Device) -> Result<AnyDecoder, WeightError> {
        AnyDecoder::load_as(&self.growth.source, self.precision, device)
    }

    /// Loads it for training.
    ///
    /// # Errors
    /// What the source says.
    pub fn load_to_train(&self, device: &Device) -> Result<AnyDecoder, WeightError> {
        AnyDecoder::load(&self.growth.source, device)
    }

    /// What it is, loaded.
    pub fn describe(&self, model: &AnyDecoder) -> BenchModel {
        let parameters = count_parameters(self.config());
        let dtype = model.footprint().main_format().unwrap_or_default().to_owned();
        BenchModel {
            name: self.name.clone(),
            kind: kind(self.config(), self.file_type.unwrap_or_else(|| main_format(model.footprint()))),
            size_bytes: model.footprint().size_bytes(),
            num_parameters: parameters.total,
            num_active_parameters: parameters.active,
            dtype,
            growth: if self.is_grown { self.growth.title() } else { String::new() },
        }
    }

    fn fills_blocks(&self, name: &str, device: &Device) -> Result<(), BenchError> {
        if !keeps_blocks(device) {
            return Err(BenchError::NoBlocksHere { device: name.to_owned() });
        }
        let (hidden_size, intermediate_size) = (self.config().hidden_size, self.config().intermediate_size);
        if hidden_size.is_multiple_of(32) || intermediate_size.is_multiple_of(32) {
            return Ok(());
        }
        Err(BenchError::NothingFillsBlocks { model: self.name.clone(), hidden_size, intermediate_size })
    }

    fn fits(&self, case: &TestCase) -> Result<(), BenchError> {
        let num_positions = match case.test {
            Test::Inference { n_prompt, n_gen, n_depth } => n_prompt.saturating_add(n_gen).saturating_add(n_depth),
            Test::Train { n_train } => n_train,
        };
        let max_position_embeddings = self.config().max_position_embeddings;
        let (test, model) = (case.name(), self.name.clone());
        if num_positions > max_position_embeddings {
            return Err(BenchError::TooLong { test, model, num_positions, max_position_embeddings });
        }
        let parts = self.least_bytes(case, num_positions as u64);
        let bytes = parts.iter().map(|(_, bytes)| bytes).sum::<u128>();
        match total_memory_bytes() {
            Some(most) if bytes > u128::from(most) => {
                let parts = parts.map(|(name, bytes)| format!("{name} {}", size(bytes))).join(", ");
                let needs = format!("{} of memory ({parts})", size(bytes));
                Err(BenchError::TooLarge { test, model, needs, most: size(most) })
            }
            _ => Ok(()),
        }
    }

    /// Bytes that a test keeps at the least: weights and cache; or the state of training and what backward needs.
    fn least_bytes(&self, case: &TestCase, num_positions: u64) -> [(&'static str, u128); 2] {
        let (config, batch) = (self.config(), case.batch_size as u64);
        match case.test {
            Test::Inference { .. } => {
                let token = memory::kv_cache_bytes_per_token(config, 4);
                [("weights", self.weights.loaded), ("cache", token * u128::from(batch) * u128::from(num_positions))]
            }
            Test::Train { .. } => [
                ("weights, gradients and moments", memory::train_state_bytes(config)),
                ("activations", memory::activation_bytes(config, batch, num_positions, 4)),
            ],
        }
    }

    /// What its speed must not be taken for: experts that are one copy in memory are read once.
    pub fn notice(&self) -> Option<String> {
        let LeastBytes { apart, distinct_experts, .. } = self.weights;
        let (moe, distinct) = (self.config().moe?, distinct_experts?);
        let num_experts = moe.num_local_experts;
        let copies = match distinct {
            1 => "one copy".to_owned(),
            some if some < num_experts => format!("{some} copies"),
            _ => return None,
        };
        let quant = if self.precision == Precision::Blocks(None) { " with --quant" } else { "" };
        let apart = size(apart);
        Some(format!(
            "{}: the {num_experts} experts of a layer are {copies} in memory; a trained mixture keeps {apart} apart; \
             --noise{quant} makes them differ",
            self.name
        ))
    }
}

/// Whether a file has matrices in blocks that there is a kernel for.
fn has_blocks(checkpoint: &Checkpoint) -> bool {
    let is_gguf = matches!(checkpoint, Checkpoint::Gguf(_));
    is_gguf && checkpoint.stored_tensors().iter().any(|tensor| BlockFormat::from_name(&tensor.format).is_some())
}

/// Family, experts, parameters, format: `llama 135M F32`, `mixtral 8x2 560M Q4_K - Medium`.
fn kind(config: &DecoderConfig, format: &str) -> String {
    let family = match (config.model_type, config.moe) {
        (ModelType::Llama, _) => "llama".to_owned(),
        (ModelType::Mistral, _) => "mistral".to_owned(),
        (ModelType::Mixtral, Some(moe)) => format!("mixtral {}x{}", moe.num_local_experts, moe.num_experts_per_tok),
        (ModelType::Mixtral, None) => "mixtral".to_owned(),
    };
    let parameters = count_parameters(config).total as f64;
    let parameters = match parameters {
        few if few < 1e6 => format!("{:.0}K", few / 1e3),
        some if some < 1e9 => format!("{:.0}M", some / 1e6),
        many => format!("{:.1}B", many / 1e9),
    };
    format!("{family} {parameters} {format}")
}

/// The format that most numbers have, as llama.cpp calls it.
fn main_format(footprint: &Footprint) -> &str {
    match footprint.main_format() {
        Some("float32") => "F32",
        Some("float16") => "F16",
        Some("bfloat16") => "BF16",
        other => other.unwrap_or_default(),
    }
}
