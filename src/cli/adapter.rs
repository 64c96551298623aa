//! A LoRA adapter and the base that it belongs to.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::Value;

use super::failure::Failure;
use super::progress::Bytes;
use crate::formats::peft::PeftDirectory;
use crate::output::disk::Disk;
use crate::output::receipt::recorded_parent;
use crate::upscale::{Sources, parents};

/// An adapter of a model that is loaded.
#[derive(Debug, Clone, Args)]
pub struct AdapterArgs {
    /// LoRA adapter to add to MODEL: a directory as PEFT writes it
    ///
    /// Its updates are added to the matrices, after the growth, as they are loaded: the model is the one that merge-lora writes.
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub lora: Option<PathBuf>,
}

impl AdapterArgs {
    /// Opens the adapter, if there is one.
    ///
    /// # Errors
    /// If its files are not those of an adapter.
    pub(super) fn open(&self, disk: &Arc<dyn Disk>) -> Result<Option<PeftDirectory>, Failure> {
        let open = |path: &PathBuf| PeftDirectory::open_on(disk.clone(), path);
        self.lora.as_ref().map(open).transpose().map_err(|error| Failure::from(error).for_option("--lora"))
    }
}

/// Says that the receipt of `adapter` names other weights than `sources` have; `None` if they are the same, or the adapter has no
/// receipt. Names do not matter.
///
/// # Errors
/// If a file cannot be read.
pub(super) fn other_base(
    disk: &Arc<dyn Disk>,
    adapter: &PeftDirectory,
    sources: &Sources,
) -> Result<Option<String>, Failure> {
    let Some(expected) = recorded_parent(&**disk, adapter.path())? else { return Ok(None) };
    let bar = Bytes::new("comparing the base with the adapter's receipt", None);
    let found = parents(sources, &mut |bytes| bar.add(bytes))?;
    let hashes = |parent: &Value| -> Vec<Value> {
        let files = parent["weights"].as_array().into_iter().flatten();
        files.map(|file| file["blake3"].clone()).collect()
    };
    let is_other = hashes(&found[0]) != hashes(&expected);
    let (adapter, base) = (adapter.path(), sources.bases[0].path());
    let trained_on = &expected["name"];
    Ok(is_other.then(|| format!("{adapter:?} was trained on {trained_on} with other weights than {base:?} has")))
}
