//! A model to measure: opened, grown and checked, not loaded.

use std::fmt;

use burn::tensor::Device;

use super::case::{Test, TestCase};
use super::error::BenchError;
use super::record::BenchModel;
use crate::config::{DecoderConfig, ModelType};
use crate::formats::Checkpoint;
use crate::kernel::blocks::BlockFormat;
use crate::kernel::linear::keeps_bfloat16;
use crate::kernel::quantized_weight::QuantizedWeight;
use crate::load::{Footprint, Precision};
use crate::model::AnyDecoder;
use crate::profile::flops::count_parameters;
use crate::profile::hardware::Hardware;
use crate::profile::memory;
use crate::profile::system_memory::total_memory_bytes;
use crate::profile::training_memory::{TrainingMemory, TrainingShape};
use crate::weights::WeightSource;

/// A checkpoint and the view of it that is measured.
pub struct Subject<'a> {
    /// Its name in the records.
    pub name: String,
    /// The checkpoint.
    pub checkpoint: &'a Checkpoint,
    /// Its weights, grown.
    pub source: &'a (dyn WeightSource + 'a),
    /// How it was grown; empty if it was not.
    pub growth: String,
    /// Whether growth leaves every matrix in the number format of the file.
    pub keeps_formats: bool,
}

/// A model to measure.
pub struct Target<'a> {
    subject: Subject<'a>,
    precision: Precision,
    /// llama.cpp's name for the number formats of the file, if they are kept.
    file_type: Option<&'static str>,
    weights: Footprint,
}

impl<'a> Target<'a> {
    /// Checks the tests against a model. Without a precision, it is that of a file with blocks, else float32.
    ///
    /// # Errors
    /// [`BenchError::NoBlocksHere`], [`BenchError::NothingFillsBlocks`], [`BenchError::TooLong`], [`BenchError::TooLarge`].
    pub fn new(
        subject: Subject<'a>,
        precision: Option<Precision>,
        cases: &[TestCase],
        device: &Device,
    ) -> Result<Self, BenchError> {
        let precision = precision.unwrap_or_else(|| default_precision(subject.checkpoint));
        let weights = AnyDecoder::foresee(&subject.source, precision, device)?;
        let keeps_all = precision == Precision::Blocks(None) && subject.keeps_formats;
        let file_type = if keeps_all { subject.checkpoint.file_type()? } else { None };
        let target = Self { subject, precision, file_type, weights };
        if matches!(precision, Precision::Blocks(Some(_))) {
            target.fills_blocks(device)?;
        }
        cases.iter().try_for_each(|case| target.fits(case, device))?;
        Ok(target)
    }

    /// Its shape.
    pub fn config(&self) -> &DecoderConfig {
        self.subject.source.config()
    }

    /// Its name in the records.
    pub fn name(&self) -> &str {
        &self.subject.name
    }

    /// The number formats of its matrices for inference.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The memory that its weights will take.
    pub fn weights(&self) -> &Footprint {
        &self.weights
    }

    /// Loads it for inference.
    ///
    /// # Errors
    /// [`BenchError::Weights`].
    pub fn load(&self, device: &Device) -> Result<AnyDecoder, BenchError> {
        Ok(AnyDecoder::load_as(&self.subject.source, self.precision, device)?)
    }

    /// The number formats of its matrices in training: mixed precision if they were asked for in bfloat16, else float32.
    pub fn training_precision(&self) -> Precision {
        self.precision.in_training()
    }

    /// Loads it for training.
    ///
    /// # Errors
    /// [`BenchError::Weights`].
    pub fn load_to_train(&self, device: &Device) -> Result<AnyDecoder, BenchError> {
        Ok(AnyDecoder::load_as(&self.subject.source, self.training_precision(), device)?)
    }

    /// The model for the records, loaded in this precision.
    pub(super) fn describe(&self, model: &AnyDecoder, precision: Precision) -> BenchModel {
        let (parameters, footprint) = (count_parameters(self.config()), model.footprint());
        let products = match precision {
            Precision::Mixed => Some("bfloat16"),
            _ => footprint.main_format(),
        };
        BenchModel {
            name: self.subject.name.clone(),
            kind: kind(self.config(), self.file_type.unwrap_or_else(|| main_format(footprint))),
            num_layers: self.config().num_hidden_layers,
            size_bytes: footprint.size_bytes(),
            num_parameters: parameters.total,
            num_active_parameters: parameters.active,
            dtype: products.unwrap_or_default().to_owned(),
            growth: self.subject.growth.clone(),
        }
    }

    fn fills_blocks(&self, device: &Device) -> Result<(), BenchError> {
        if !QuantizedWeight::has_kernel(device) {
            return Err(BenchError::NoBlocksHere { device: format!("{device:?}") });
        }
        let (hidden_size, intermediate_size) = (self.config().hidden_size, self.config().intermediate_size);
        if hidden_size.is_multiple_of(32) || intermediate_size.is_multiple_of(32) {
            return Ok(());
        }
        Err(BenchError::NothingFillsBlocks { model: self.subject.name.clone(), hidden_size, intermediate_size })
    }

    fn fits(&self, case: &TestCase, device: &Device) -> Result<(), BenchError> {
        case.fits_context(&self.subject.name, self.config())?;
        // A GPU has a memory of its own.
        let available_bytes = match Hardware::of(device) {
            Hardware::Processor => total_memory_bytes(),
            Hardware::NvidiaGpu | Hardware::Other => None,
        };
        let parts = least_bytes(self.config(), case, &self.weights, self.precision, keeps_bfloat16(device));
        match available_bytes {
            Some(available_bytes) if parts.iter().map(|(_, bytes)| bytes).sum::<u128>() > available_bytes.into() => {
                let (test, model) = (case.name(), self.subject.name.clone());
                Err(BenchError::TooLarge { test, model, parts, available_bytes })
            }
            _ => Ok(()),
        }
    }

    /// What the user should know before reading the numbers.
    pub fn notes(&self) -> Vec<Note> {
        let rounds = matches!(self.precision, Precision::Blocks(Some(_))) && has_blocks(self.subject.checkpoint);
        let shared = self.config().moe.zip(self.weights.distinct_experts()).and_then(|(moe, num_copies)| {
            let (num_experts, apart_bytes) = (moe.num_local_experts, self.weights.unshared_bytes().into());
            (num_copies < num_experts).then_some(Note::SharedExperts { num_experts, num_copies, apart_bytes })
        });
        rounds.then_some(Note::AlreadyQuantized).into_iter().chain(shared).collect()
    }
}

/// Lower bound on the memory of a test, without what allocators keep: weights and cache, or the state of training and the
/// activations that [`TrainingMemory`] foresees. Where products with bfloat16 weights give bfloat16, keys and values take half
/// as much, and activations no less than half.
fn least_bytes(
    config: &DecoderConfig,
    case: &TestCase,
    weights: &Footprint,
    precision: Precision,
    keeps_bfloat16: bool,
) -> [(&'static str, u128); 2] {
    let (batch, num_positions) = (case.batch_size as u64, case.num_positions() as u64);
    let is_mixed = precision.in_training() == Precision::Mixed;
    let halves = keeps_bfloat16 && is_mixed;
    match case.test {
        Test::Inference { .. } => {
            let token = memory::kv_cache_bytes_per_token(config, if halves { 2 } else { 4 });
            [("weights", weights.size_bytes().into()), ("cache", token * u128::from(batch) * u128::from(num_positions))]
        }
        Test::Train { .. } => {
            let num_trained = count_parameters(config).total;
            let shape = TrainingShape {
                weight_bytes: num_trained.saturating_mul(4),
                num_trained,
                num_tokens: batch.saturating_mul(num_positions),
                accumulates: false,
                is_mixed,
                recomputes: false,
                adapts_experts: false,
                adapter_numbers: 0,
            };
            let TrainingMemory { weights, moments, gradients, activations, .. } =
                TrainingMemory::foresee(config, shape);
            let state = [weights, moments, gradients].map(u128::from);
            [
                ("weights, gradients and moments", state.iter().sum()),
                ("activations", u128::from(if halves { activations / 2 } else { activations })),
            ]
        }
    }
}

/// A remark on a model before it is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// Rounding was asked for, and the file has blocks.
    AlreadyQuantized,
    /// Equal experts are read once, so that the mixture is faster than a trained one.
    SharedExperts {
        /// Experts of a layer.
        num_experts: usize,
        /// Different ones in memory.
        num_copies: usize,
        /// Bytes of the weights after training has made them differ.
        apart_bytes: u128,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::AlreadyQuantized => {
                f.write_str("the file is quantized already; only the matrices that it has as floats are rounded")
            }
            Self::SharedExperts { num_experts, num_copies, apart_bytes } => {
                let copies = if *num_copies == 1 { "one copy".to_owned() } else { format!("{num_copies} copies") };
                let gib = *apart_bytes as f64 / f64::from(1 << 30);
                write!(f, "the {num_experts} experts of a layer are {copies} in memory; ")?;
                write!(f, "a trained mixture keeps them apart, {gib:.2} GiB of weights")
            }
        }
    }
}

/// The number formats in which a checkpoint is measured: its blocks, if it has any, else float32.
pub fn default_precision(checkpoint: &Checkpoint) -> Precision {
    if has_blocks(checkpoint) { Precision::Blocks(None) } else { Precision::FLOAT32 }
}

/// Whether a file has matrices in blocks for which there is a kernel.
fn has_blocks(checkpoint: &Checkpoint) -> bool {
    let is_gguf = matches!(checkpoint, Checkpoint::Gguf(_));
    is_gguf && checkpoint.stored_tensors().iter().any(|tensor| BlockFormat::from_name(&tensor.format).is_some())
}

/// Family, experts, total parameters, format: `llama 135M F32`, `mixtral 8x2 560M Q4_K - Medium`.
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

/// The format of most numbers, by llama.cpp's name.
fn main_format(footprint: &Footprint) -> &str {
    match footprint.main_format() {
        Some("float32") => "F32",
        Some("float16") => "F16",
        Some("bfloat16") => "BF16",
        other => other.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::ProfileTest;
    use crate::profile::memory_report::MemoryReport;
    use crate::weights::Dtype;

    #[test]
    fn a_training_step_needs_what_its_profile_foresees() {
        let config = DecoderConfig::smollm2_135m();
        let (batch_size, seq_length) = (4, 256);
        let case = TestCase { test: Test::Train { n_train: seq_length }, batch_size, n_threads: 1 };
        for (precision, training) in
            [(Precision::FLOAT32, Precision::FLOAT32), (Precision::Float(Dtype::Bfloat16), Precision::Mixed)]
        {
            let test = ProfileTest::Training { batch_size, seq_length };
            let foreseen = MemoryReport::foreseen(&config, 0, training, test).foreseen;
            let [state, activations] =
                least_bytes(&config, &case, &Footprint::default(), precision, false).map(|(_, bytes)| bytes);
            assert_eq!(state + activations, u128::from(foreseen.total()), "{precision:?}");
            let [_, halved] =
                least_bytes(&config, &case, &Footprint::default(), precision, true).map(|(_, bytes)| bytes);
            assert_eq!(halved, if training == Precision::Mixed { activations / 2 } else { activations });
        }
    }
}
