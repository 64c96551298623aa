//! Writes a trained model as `grow` writes a grown one: weights, tokenizer, model card, receipt.

use std::sync::Arc;

use serde_json::{Value, json};

use super::log::to_jsonl;
use super::method::{Method, RowKind};
use super::progress::Progress;
use super::{FinetuneError, Settings};
use crate::formats::hf::{HfOptions, HfWriter};
use crate::formats::peft::write_peft;
use crate::model::{AnyDecoder, DecoderWeights};
use crate::output::commit::PartialDirectory;
use crate::output::disk::Disk;
use crate::output::receipt::RECEIPT;
use crate::upscale::{Finish, Growth, Provenance, Sources, model_card, receipt};

/// A trained model and where it comes from.
pub struct Trained<'a> {
    /// The checkpoints that it was grown from.
    pub sources: &'a Sources,
    /// The same with the hash of their weights, as the receipt records them.
    pub parents: &'a [Value],
    /// The grown base, before training.
    pub growth: &'a Growth<'a>,
    /// The model.
    pub model: &'a AnyDecoder,
    /// What it was trained on.
    pub rows: RowKind,
    /// The settings of its training.
    pub settings: &'a Settings,
    /// The state at the end of its training.
    pub progress: &'a Progress,
}

/// Writes and commits the directory: of an adapter, that of PEFT.
///
/// # Errors
/// [`FinetuneError`]; the directory is then removed.
pub fn write_model(
    disk: &Arc<dyn Disk>,
    mut partial: PartialDirectory,
    trained: &Trained<'_>,
    options: HfOptions,
    provenance: &Provenance,
) -> Result<(), FinetuneError> {
    let Trained { sources, parents, growth, model, rows, settings, progress } = trained;
    let library = match model.adapter() {
        Some(adapter) => {
            write_peft(&mut partial, &adapter, Some(&sources.names[0]))?;
            "peft"
        }
        None => {
            let (weights, sidecar) = (DecoderWeights::new(model), sources.sidecar(&**disk)?);
            HfWriter::new(&weights, options).write(&mut partial, &sidecar, &mut |_| ())?;
            sidecar.write(disk, &mut partial)?;
            for (name, bytes) in &growth.configs {
                partial.write(name, bytes)?;
            }
            "transformers"
        }
    };
    partial.write("log.jsonl", to_jsonl(&progress.history).as_bytes())?;
    let adapter =
        settings.lora.as_ref().map_or_else(String::new, |lora| format!(" of a LoRA adapter of rank {}", lora.r));
    let training = format!(
        "by {}{adapter} for {} updates on {} tokens; `log.jsonl` has the losses.",
        Method::of(settings, *rows).name(),
        progress.step,
        progress.num_tokens
    );
    partial.write("README.md", model_card(sources, growth, library, Finish::Trained(&training))?.as_bytes())?;
    let mut receipt = receipt(parents.to_vec(), growth, provenance);
    receipt["training"] = json!({
        "steps": progress.step,
        "num_tokens": progress.num_tokens,
        "skipped_updates": progress.num_skipped,
        "best_eval_loss": progress.best.map(|(loss, _)| loss),
        "settings": settings,
    });
    receipt["files"] = json!(partial.files());
    partial.write(RECEIPT, format!("{receipt:#}\n").as_bytes())?;
    Ok(partial.commit()?)
}
