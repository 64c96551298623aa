//! The space on disk that a run takes.

use super::{FinetuneError, Job};
use crate::formats::hf::{HfOptions, HfWriter};
use crate::model::{AnyDecoder, DecoderWeights};
use crate::train::ParamNames;

/// Room for the files of a directory that are small: log, state, model card, receipt.
const SLACK_BYTES: u64 = 1 << 20;
/// Bytes of a float32.
const FLOAT_BYTES: u64 = 4;

/// Sizes of what a run will write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// One checkpoint.
    pub checkpoint_bytes: u64,
    /// Most checkpoints that are kept at once, beside those that are there already.
    pub num_checkpoints: u64,
    /// The trained model.
    pub output_bytes: u64,
}

impl DiskSpace {
    /// Checkpoints and the trained model.
    pub fn peak_bytes(&self) -> u64 {
        self.num_checkpoints * self.checkpoint_bytes + self.output_bytes
    }
}

impl Job<'_> {
    /// The space that the run takes from `model` on, after `step` updates; `options` are those of the trained model.
    ///
    /// # Errors
    /// If the files that are copied from the base, or the directory of checkpoints, cannot be read.
    pub fn disk_space(&self, model: &AnyDecoder, step: usize, options: HfOptions) -> Result<DiskSpace, FinetuneError> {
        let num_trained = ParamNames::of(model).num_trained_elements;
        let copied = self.sources.sidecar(&**self.disk)?.size_bytes(&**self.disk)?;
        let weights = DecoderWeights::new(model);
        let size_bytes = |options| match self.settings.lora {
            Some(_) => FLOAT_BYTES * num_trained,
            None => copied + HfWriter::new(&weights, options).files().iter().map(|(_, bytes)| bytes).sum::<u64>(),
        };
        let moments_bytes = 2 * FLOAT_BYTES * num_trained;
        let num_present = self.checkpoints.complete_steps()?.len();
        let num_saved = self.control.num_saved(self.settings.schedule.num_steps.saturating_sub(step));
        let num_kept = (num_present + num_saved).min(self.checkpoints.most_at_once());
        Ok(DiskSpace {
            checkpoint_bytes: size_bytes(HfOptions::default()) + moments_bytes + SLACK_BYTES,
            num_checkpoints: num_kept.saturating_sub(num_present).max(num_saved.min(1)) as u64,
            output_bytes: size_bytes(options) + SLACK_BYTES,
        })
    }
}
