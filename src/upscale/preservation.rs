//! What growth changed: the logits and the loss of base and result, on real tokens.

use std::path::Path;

use burn::tensor::Device;
use serde_json::{Value, json};

use super::{Sources, UpscaleError};
use crate::config::DecoderConfig;
use crate::device::device;
use crate::error::FileError;
use crate::eval::{LogitDivergence, logit_divergence, logits, rounding_tolerance};
use crate::formats::Checkpoint;
use crate::model::AnyDecoder;
use crate::tokenizer::Tokenizer;
use crate::weights::WeightSource;

/// The built-in text.
const PARAGRAPH: &str = include_str!("preservation.txt");

/// Cap on the positions that are compared, so that the logits of a large vocabulary fit beside a model.
const MAX_TOKENS: usize = 256;

/// The text that base and result are compared on, as token ids.
#[derive(Debug, Clone)]
pub struct CheckText {
    ids: Vec<u32>,
}

impl CheckText {
    /// Reads and tokenizes the text of a file, or the built-in one.
    ///
    /// # Errors
    /// [`UpscaleError`], also if the base cannot be computed with.
    pub fn read(sources: &Sources, file: Option<&Path>) -> Result<Self, UpscaleError> {
        sources.parent().config().computable()?;
        let text = match file {
            None => PARAGRAPH.to_owned(),
            Some(path) => std::fs::read_to_string(path).map_err(FileError::io(path))?,
        };
        let (checkpoint, config) = (sources.tokenizer(), sources.parent().config());
        let tokenizer = tokenizer_of(checkpoint)?;
        let mut ids = match (tokenizer.encode_with_special_tokens(&text), file) {
            (Err(source), None) => return Err(UpscaleError::BuiltInText { source }),
            (encoded, _) => encoded?,
        };
        ids.truncate(MAX_TOKENS.min(config.max_position_embeddings));
        if ids.len() < 2 {
            return Err(UpscaleError::ShortText { found: ids.len() });
        }
        within_vocabulary(&ids, config)?;
        Ok(Self { ids })
    }
}

/// The tokenizer of a checkpoint.
pub(super) fn tokenizer_of(checkpoint: &Checkpoint) -> Result<Tokenizer, UpscaleError> {
    Ok(Tokenizer::from_json(&checkpoint.tokenizer_json()?, checkpoint.path())?)
}

/// Refuses ids without a row in the embeddings.
pub(super) fn within_vocabulary(ids: &[u32], config: &DecoderConfig) -> Result<(), UpscaleError> {
    let vocab_size = config.vocab_size;
    match ids.iter().find(|&&id| id as usize >= vocab_size) {
        Some(&id) => Err(UpscaleError::IdBeyondVocabulary { id, vocab_size }),
        None => Ok(()),
    }
}

/// How far the result of a growth is from its base.
#[derive(Debug, Clone)]
pub struct Preservation {
    /// The comparison.
    pub divergence: LogitDivergence,
    /// Whether the growth should preserve the function.
    pub expected: bool,
    tolerance: f64,
}

impl Preservation {
    /// Runs the base and the result, one after the other, on the same text. `epsilon` is the distance between 1 and the
    /// next number of the type that weights were rounded to, if they were.
    ///
    /// # Errors
    /// [`UpscaleError::Weights`], [`UpscaleError::Device`].
    pub fn measure(
        base: &Checkpoint,
        grown: &impl WeightSource,
        expected: bool,
        epsilon: Option<f64>,
        text: &CheckText,
    ) -> Result<Self, UpscaleError> {
        let device = device("flex")?;
        let base_logits = logits_of(base, &text.ids, &device)?;
        let divergence = logit_divergence(&text.ids, &base_logits, &logits_of(grown, &text.ids, &device)?);
        Ok(Self { divergence, expected, tolerance: rounding_tolerance(grown.config().num_hidden_layers, epsilon) })
    }

    /// Whether a growth that should preserve the function did.
    pub fn passed(&self) -> bool {
        !self.expected || self.divergence.is_within(self.tolerance)
    }

    /// The record.
    pub fn to_json(&self) -> Value {
        let d = &self.divergence;
        json!({
            "num_tokens": d.num_tokens,
            "max_abs_logit_difference": d.max_abs_logit,
            "base_max_abs_logit": d.base_max_abs_logit,
            "mean_kl_nats": d.mean_kl_nats,
            "top1_agreement": d.top1_agreement,
            "base_loss_nats": d.base_loss_nats,
            "loss_nats": d.loss_nats,
            "function_preserving": self.expected,
            "passed": self.passed(),
        })
    }
}

fn logits_of(source: &impl WeightSource, ids: &[u32], device: &Device) -> Result<Vec<f32>, UpscaleError> {
    Ok(logits(&AnyDecoder::load(source, device)?, ids, device))
}
