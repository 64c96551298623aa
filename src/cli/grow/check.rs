//! `--check`: what growth changed, measured on real tokens.

use std::path::Path;

use burn::tensor::Device;
use serde_json::{Value, json};

use super::super::failure::Failure;
use super::super::output::aligned;
use crate::config::DecoderConfig;
use crate::device::device;
use crate::eval::{LogitDivergence, logit_divergence, logits, rounding_tolerance};
use crate::formats::Checkpoint;
use crate::model::AnyDecoder;
use crate::tokenizer::Tokenizer;
use crate::weights::WeightSource;

/// What is read where no text is given.
const PARAGRAPH: &str = include_str!("check.txt");

/// Positions that are compared, so that the logits of a large vocabulary fit beside a model.
const MOST_TOKENS: usize = 256;

/// A text that both models will read.
pub(super) struct Text {
    ids: Vec<u32>,
}

impl Text {
    /// Reads and tokenizes it, so that what is wrong with it is known before anything is written.
    pub fn read(base: &Checkpoint, file: Option<&Path>) -> Result<Self, Failure> {
        base.config().computable().map_err(|error| Failure::invalid(error).for_option("--check"))?;
        let text = match file {
            None => PARAGRAPH.to_owned(),
            Some(path) => std::fs::read_to_string(path).map_err(Failure::reading(path))?,
        };
        let tokenizer = Tokenizer::from_json(&base.tokenizer_json()?, &base.path().join("tokenizer.json"))?;
        let encoded = tokenizer.encode_with_special_tokens(&text);
        let mut ids = match (encoded, file) {
            (Err(source), None) => {
                return Err(Failure::invalid(format_args!(
                    "the text that --check reads by default does not suit the tokenizer ({source}): expected --check-text FILE"
                )));
            }
            (encoded, _) => encoded?,
        };
        ids.truncate(MOST_TOKENS.min(base.config().max_position_embeddings));
        if ids.len() < 2 {
            return Err(Failure::invalid(format_args!(
                "the text of --check has {} tokens, expected at least 2",
                ids.len()
            )));
        }
        within_vocabulary(&ids, base.config())?;
        Ok(Self { ids })
    }
}

/// Refuses ids that the embeddings have no row for.
pub(super) fn within_vocabulary(ids: &[u32], config: &DecoderConfig) -> Result<(), Failure> {
    match ids.iter().find(|&&id| id as usize >= config.vocab_size) {
        Some(&id) => Err(Failure::invalid(format_args!(
            "the tokenizer gives id {id}, expected ids below vocab_size {}",
            config.vocab_size
        ))),
        None => Ok(()),
    }
}

/// The result of a check.
pub(super) struct Check {
    divergence: LogitDivergence,
    preserves: bool,
    tolerance: f64,
}

impl Check {
    /// Runs the base and what was written, one after the other, on the same text. `rounded` is the distance between 1 and
    /// the next number of the type that weights were rounded to, if they were.
    pub fn run(
        base: &Checkpoint,
        grown: &impl WeightSource,
        preserves: bool,
        rounded: Option<f64>,
        text: &Text,
    ) -> Result<Self, Failure> {
        let device = device("flex")?;
        let base_logits = logits_of(base, &text.ids, &device)?;
        let divergence = logit_divergence(&text.ids, &base_logits, &logits_of(grown, &text.ids, &device)?);
        let tolerance = rounding_tolerance(grown.config().num_hidden_layers, rounded);
        Ok(Self { divergence, preserves, tolerance })
    }

    /// Whether a growth that preserves the function did.
    pub fn passed(&self) -> bool {
        !self.preserves || self.divergence.is_within(self.tolerance)
    }

    /// What was found, a line each.
    pub fn to_text(&self) -> String {
        let d = &self.divergence;
        let verdict = match (self.preserves, self.passed()) {
            (true, true) => "function preserved, up to rounding",
            (true, false) => "FAILED: the function was to be preserved, and was not",
            (false, _) => "this growth changes the function; training has to mend the jump of the loss",
        };
        let rows = [
            ["tokens".to_owned(), d.num_tokens.to_string()],
            [
                "max |Δlogit|".to_owned(),
                format!("{:.3e} (largest |logit| {:.2})", d.max_abs_logit, d.base_max_abs_logit),
            ],
            ["mean KL".to_owned(), format!("{:.3e} nats", d.mean_kl_nats)],
            ["same likeliest token".to_owned(), format!("{:.2} %", 100.0 * d.top1_agreement)],
            ["loss of the base".to_owned(), format!("{:.4} nats", d.base_loss_nats)],
            [
                "loss after growth".to_owned(),
                format!("{:.4} nats ({:+.4})", d.loss_nats, d.loss_nats - d.base_loss_nats),
            ],
        ];
        format!("check: {verdict}\n{}", aligned(&rows.map(|row| row.to_vec())))
    }

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
            "function_preserving": self.preserves,
            "passed": self.passed(),
        })
    }

    /// The one number that a message needs.
    pub fn max_abs_logit(&self) -> f64 {
        self.divergence.max_abs_logit
    }
}

fn logits_of(source: &impl WeightSource, ids: &[u32], device: &Device) -> Result<Vec<f32>, Failure> {
    Ok(logits(&AnyDecoder::load(source, device)?, ids, device))
}
