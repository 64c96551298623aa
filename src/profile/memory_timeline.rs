//! Memory over time, by kind: measured on the heap, or in the pool of a device.

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::device_memory::probe_of;
use super::memory::kv_cache_bytes_per_token;
use super::throughput::{InferenceRuns, InferenceTest, train_runs};
use crate::model::CausalLm;
use crate::trace::{MemoryProbe, MemorySample, record_memory};
use crate::train::TrainError;

/// Bytes of each kind at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryMoment {
    /// Seconds after the start.
    pub at_s: f64,
    /// Weights.
    pub weights: u64,
    /// Keys and values.
    pub cache: u64,
    /// Moments of the optimizer.
    pub optimizer: u64,
    /// Gradients of parameters that were computed and not yet used up.
    pub gradients: u64,
    /// Everything else that the pass allocates: activations, temporaries, panels of products.
    pub activations: u64,
}

impl MemoryMoment {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.cache + self.optimizer + self.gradients + self.activations
    }
}

/// Memory during one repetition of a test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemoryTimeline {
    /// At both ends of every module, and after every gradient.
    pub moments: Vec<MemoryMoment>,
    /// At the highest point, which can lie between moments on the heap. Of a pool it is the highest of the moments.
    pub peak: MemoryMoment,
}

impl MemoryTimeline {
    /// Memory of a repetition of an inference test after an untimed one; `weight_bytes` are those of the model. `None` if no
    /// [probe](super::device_memory::probe_of) exists for the device.
    ///
    /// # Panics
    /// If the test does not fit the model.
    pub fn of_inference<M: CausalLm>(
        model: &M,
        weight_bytes: u64,
        test: InferenceTest,
        device: &Device,
    ) -> Option<Self> {
        let [batch_size, positions] = [test.batch_size, test.num_positions()].map(|size| size as u64);
        let cache = kv_cache_room_bytes(model, batch_size, positions);
        let mut runs = InferenceRuns::new(model, test, device);
        runs.run();
        let held = MemoryMoment { weights: weight_bytes, cache, ..MemoryMoment::default() };
        probe_of(device).map(|probe| {
            Self::of(held, probe, device, || {
                runs.run();
            })
        })
    }

    /// Memory of an update with AdamW that trains `num_trained` parameters, after two others. Returns the trained model.
    ///
    /// # Errors
    /// [`TrainError`].
    ///
    /// # Panics
    /// If `device` does not record gradients.
    pub fn of_training<M: CausalLm>(
        model: M,
        [weight_bytes, num_trained]: [u64; 2],
        [batch_size, seq_length]: [usize; 2],
        device: &Device,
    ) -> Result<(Option<Self>, M), TrainError> {
        let held = MemoryMoment { weights: weight_bytes, optimizer: 8 * num_trained, ..MemoryMoment::default() };
        train_runs(model, batch_size, seq_length, 3, device, |step| {
            step();
            step();
            probe_of(device).map(|probe| {
                Self::of(held, probe, device, || {
                    step();
                })
            })
        })
    }

    /// Samples `work`; what is in use before it is `held`, or is not the model's.
    fn of(held: MemoryMoment, probe: MemoryProbe, device: &Device, work: impl FnOnce()) -> Self {
        let [before, _] = probe(device);
        let ((), samples) = record_memory(device, probe, work);
        let moment = |sample: &MemorySample, bytes: u64| {
            let more = bytes.saturating_sub(before);
            let gradients = sample.gradient_bytes.min(more);
            MemoryMoment { at_s: sample.at_ns as f64 / 1e9, gradients, activations: more - gradients, ..held }
        };
        let highest = samples.iter().max_by_key(|sample| sample.peak_bytes);
        Self {
            peak: highest.map_or(held, |sample| moment(sample, sample.peak_bytes)),
            moments: samples.iter().map(|sample| moment(sample, sample.live_bytes)).collect(),
        }
    }
}

/// Bytes of a cache with room for these positions: the window does not bound them.
fn kv_cache_room_bytes<M: CausalLm>(model: &M, batch_size: u64, positions: u64) -> u64 {
    let bytes = kv_cache_bytes_per_token(model.config(), 4) * u128::from(batch_size * positions);
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
