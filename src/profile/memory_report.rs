//! Memory by kind: predicted, and measured where the memory of the device can be read.

use burn::tensor::Device;
use serde::Serialize;

use super::flops::count_parameters;
use super::inference_memory::InferenceMemory;
use super::memory_timeline::{MemoryMoment, MemoryTimeline};
use super::profile_test::ProfileTest;
use super::throughput::InferenceTest;
use super::training_memory::{TrainingMemory, TrainingShape};
use crate::config::DecoderConfig;
use crate::load::Precision;
use crate::model::{AnyDecoder, CausalLm};
use crate::train::{ParamNames, TrainError};

/// The memory of a test.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MemoryReport {
    /// The peak by kind, from the config alone.
    pub foreseen: MemoryMoment,
    /// Null in a dry run, and on devices whose memory cannot be read (`tch`).
    pub measured: Option<MemoryTimeline>,
}

impl MemoryReport {
    /// Of a config whose weights take `weight_bytes` in inference; training is of all of them, in float32 or mixed precision.
    ///
    /// # Panics
    /// If a count reaches `2^128`.
    pub fn foreseen(config: &DecoderConfig, weight_bytes: u64, training: Precision, test: ProfileTest) -> Self {
        let foreseen = match test {
            ProfileTest::Inference(test) => InferenceMemory::foresee(config, weight_bytes, test).into(),
            ProfileTest::Training { batch_size, seq_length } => {
                let num_trained = count_parameters(config).total;
                trained(config, [4 * num_trained, num_trained], training, [batch_size, seq_length])
            }
        };
        Self { foreseen, measured: None }
    }

    /// Of a loaded model.
    ///
    /// # Panics
    /// If the test does not fit the model.
    pub fn of_inference(model: &AnyDecoder, weight_bytes: u64, test: InferenceTest, device: &Device) -> Self {
        Self {
            foreseen: InferenceMemory::foresee(model.config(), weight_bytes, test).into(),
            measured: MemoryTimeline::of_inference(model, weight_bytes, test, device),
        }
    }

    /// Of updates with AdamW. Returns the trained model.
    ///
    /// # Errors
    /// [`TrainError`].
    ///
    /// # Panics
    /// If `device` does not record gradients.
    pub fn of_training(
        model: AnyDecoder,
        precision: Precision,
        sizes: [usize; 2],
        device: &Device,
    ) -> Result<(Self, AnyDecoder), TrainError> {
        let counts = [model.footprint().unshared_bytes(), ParamNames::of(&model).num_trained_elements];
        let foreseen = trained(model.config(), counts, precision, sizes);
        let (measured, model) = MemoryTimeline::of_training(model, counts, sizes, device)?;
        Ok((Self { foreseen, measured }, model))
    }
}

/// The peak of an update.
fn trained(
    config: &DecoderConfig,
    [weight_bytes, num_trained]: [u64; 2],
    precision: Precision,
    [batch_size, seq_length]: [usize; 2],
) -> MemoryMoment {
    let shape = TrainingShape {
        weight_bytes,
        num_trained,
        num_tokens: (batch_size * seq_length) as u64,
        accumulates: false,
        is_mixed: precision == Precision::Mixed,
        recomputes: false,
        adapts_experts: false,
        adapter_numbers: 0,
    };
    TrainingMemory::foresee(config, shape).into()
}
