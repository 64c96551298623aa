//! The memory that is foreseen beside the memory that is measured, for many configurations of small models.

use burn::tensor::Device;
use serde::Serialize;

use super::heap::{COUNTING, is_counted};
use super::inference_memory::InferenceMemory;
use super::memory_timeline::{MemoryMoment, MemoryTimeline};
use super::throughput::InferenceTest;
use super::training_memory::{TrainingMemory, TrainingShape};
use crate::config::{ConfigError, DecoderConfig, MoeConfig};
use crate::kernel::blocks::BlockFormat;
use crate::kernel::dropout;
use crate::load::Precision;
use crate::lora::LoraConfig;
use crate::model::{AnyDecoder, CausalLm};
use crate::train::ParamNames;
use crate::weights::{Dtype, MemoryWeights};

/// A configuration of model, precision and test.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryCase {
    /// `dense`, `deep` or `wide`.
    pub model: &'static str,
    /// The shape.
    pub config: DecoderConfig,
    /// What is done with it.
    pub test: MemoryTest,
}

/// What a model is loaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryTest {
    /// Prefill or decoding.
    Inference(&'static str, Precision, InferenceTest),
    /// An update on sequences of tokens.
    Training(Update, [usize; 2]),
}

/// What an update trains, and what it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// All weights, in float32.
    Full,
    /// All weights; layers keep their inputs only.
    Recomputed,
    /// All weights, with products of bfloat16 copies.
    Mixed,
    /// An adapter of rank 8 on all linear maps.
    Lora,
    /// The same on weights in Q8_0.
    LoraOnQ8,
    /// The adapter with dropout.
    LoraDropout,
}

/// What was foreseen and what was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MemoryRecord {
    /// The model, precision or update, and test.
    pub configuration: String,
    /// Bytes by which loading the model raised the heap.
    pub loaded_bytes: u64,
    /// The measured peak.
    pub measured_bytes: u64,
    /// The foreseen peak.
    pub foreseen_bytes: u64,
    /// `foreseen / measured`.
    pub ratio: f64,
    /// The measured peak by kind.
    pub measured: MemoryMoment,
    /// The foreseen peak by kind.
    pub foreseen: serde_json::Value,
}

impl MemoryCase {
    /// A dense, a deep and a wide model of some millions of parameters, in every precision and every update, at several sizes.
    ///
    /// # Errors
    /// Never: the shapes are sound.
    pub fn all() -> Result<Vec<Self>, ConfigError> {
        let dense = DecoderConfig::pico().with(|f| {
            f.vocab_size = 4096;
            f.hidden_size = 256;
            f.intermediate_size = 768;
            f.head_dim = 64;
        })?;
        let deep = dense.with(|f| f.num_hidden_layers = 12)?;
        let moe = MoeConfig { num_local_experts: 4, num_experts_per_tok: 2, router_aux_loss_coef: 0.02 };
        let models = [("dense", dense.clone()), ("deep", deep), ("wide", dense.with_experts(moe)?)];
        let precisions = [
            ("float32", Precision::FLOAT32),
            ("bfloat16", Precision::Float(Dtype::Bfloat16)),
            ("Q8_0", Precision::Blocks(Some(BlockFormat::Q8_0))),
        ];
        let tests = [(512, 0, 0, 1), (128, 0, 0, 4), (0, 2, 500, 1), (0, 2, 500, 8)];
        let updates =
            [Update::Full, Update::Recomputed, Update::Mixed, Update::Lora, Update::LoraOnQ8, Update::LoraDropout];
        let inference = precisions.into_iter().flat_map(|(name, precision)| {
            tests.map(|(n_prompt, n_gen, n_depth, batch_size)| {
                MemoryTest::Inference(name, precision, InferenceTest { n_prompt, n_gen, n_depth, batch_size })
            })
        });
        let training = updates
            .into_iter()
            .flat_map(|update| [[1, 64], [2, 256], [8, 256]].map(|sizes| MemoryTest::Training(update, sizes)));
        let all: Vec<MemoryTest> = inference.chain(training).collect();
        let of = |(model, config): &(&'static str, DecoderConfig)| {
            let case = |test: &MemoryTest| Self { model, config: config.clone(), test: *test };
            all.iter().map(case).collect::<Vec<_>>()
        };
        Ok(models.iter().flat_map(of).collect())
    }

    /// The configuration in words.
    pub fn name(&self) -> String {
        match self.test {
            MemoryTest::Inference(dtype, _, InferenceTest { n_prompt, n_gen, n_depth, batch_size }) => {
                let test = if n_prompt > 0 { format!("pp{n_prompt}") } else { format!("tg{n_gen} @ d{n_depth}") };
                format!("{} {dtype} {test} x{batch_size}", self.model)
            }
            MemoryTest::Training(update, [batch_size, seq_length]) => {
                format!("{} {update:?} train{batch_size}x{seq_length}", self.model)
            }
        }
    }

    /// Loads random weights, runs the test and measures; `None` if the heap is not counted.
    ///
    /// # Errors
    /// If the model cannot be loaded or trained.
    pub fn measure(&self) -> Result<Option<MemoryRecord>, Box<dyn std::error::Error>> {
        let device = Device::flex();
        if !is_counted(&device) {
            return Ok(None);
        }
        let weights = MemoryWeights::untrained(self.config.clone(), 0.02, 1);
        let before = COUNTING.live_bytes();
        let loaded = || (COUNTING.live_bytes() - before) as u64;
        match self.test {
            MemoryTest::Inference(_, precision, test) => {
                let model = AnyDecoder::load_as(&weights, precision, &device)?;
                let (loaded, weight_bytes) = (loaded(), model.footprint().size_bytes());
                let found = InferenceMemory::foresee(model.config(), weight_bytes, test);
                let measured = MemoryTimeline::of_inference(&model, weight_bytes, test, &device);
                Ok(measured.map(|measured| self.record(loaded, &measured, serde_json::json!(found), found.total())))
            }
            MemoryTest::Training(update, sizes) => {
                let device = device.autodiff();
                let model = update.load(&weights, &device)?;
                let (loaded, num_trained) = (loaded(), ParamNames::of(&model).num_trained_elements);
                let weight_bytes = model.footprint().unshared_bytes();
                let shape = TrainingShape {
                    weight_bytes,
                    num_trained,
                    num_tokens: sizes.iter().product::<usize>() as u64,
                    accumulates: false,
                    is_mixed: update == Update::Mixed,
                    recomputes: update == Update::Recomputed,
                    adapts_experts: model.adapts_experts(),
                    adapter_numbers: update
                        .lora()
                        .map_or(Ok(0), |lora| lora.activation_numbers(model.config(), !dropout::has_kernel(&device)))?,
                };
                let found = TrainingMemory::foresee(model.config(), shape);
                let (measured, _) = MemoryTimeline::of_training(model, [weight_bytes, num_trained], sizes, &device)?;
                let live = found.total() - found.scratch;
                Ok(measured.map(|measured| self.record(loaded, &measured, serde_json::json!(found), live)))
            }
        }
    }

    fn record(&self, loaded: u64, measured: &MemoryTimeline, foreseen: serde_json::Value, bytes: u64) -> MemoryRecord {
        let measured_bytes = measured.peak.total();
        MemoryRecord {
            configuration: self.name(),
            loaded_bytes: loaded,
            measured_bytes,
            foreseen_bytes: bytes,
            ratio: bytes as f64 / measured_bytes as f64,
            measured: measured.peak,
            foreseen,
        }
    }
}

impl Update {
    fn load(self, weights: &MemoryWeights, device: &Device) -> Result<AnyDecoder, Box<dyn std::error::Error>> {
        let precision = match self {
            Self::Mixed => Precision::Mixed,
            Self::LoraOnQ8 => Precision::Blocks(Some(BlockFormat::Q8_0)),
            _ => Precision::FLOAT32,
        };
        let model = AnyDecoder::load_as(weights, precision, device)?;
        Ok(match self.lora() {
            Some(lora) => model.with_lora(lora, 1)?,
            None => model.with_gradient_checkpointing(self == Self::Recomputed),
        })
    }

    /// The adapter that it trains.
    fn lora(self) -> Option<LoraConfig> {
        match self {
            Self::Full | Self::Recomputed | Self::Mixed => None,
            Self::Lora | Self::LoraOnQ8 => Some(LoraConfig::default()),
            Self::LoraDropout => Some(LoraConfig { lora_dropout: 0.05, ..LoraConfig::default() }),
        }
    }
}
