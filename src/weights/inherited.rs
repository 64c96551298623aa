//! What a grown checkpoint has from its parent besides weights.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::WeightError;
use super::commit::PartialDirectory;
use super::disk::{Disk, read_through};
use super::safetensors::open_regular;

/// Keys of `config.json` that [`DecoderConfig`](crate::config::DecoderConfig) does not know, and files about text:
/// tokenizer, chat template, generation settings.
#[derive(Debug, Clone, Default)]
pub struct Inherited {
    /// Keys of the parent's `config.json`.
    pub config_keys: Map<String, Value>,
    /// Files for the child's directory, by name.
    pub files: Vec<(String, Content)>,
}

/// Where the bytes of an inherited file come from.
#[derive(Debug, Clone)]
pub enum Content {
    /// A file of the parent.
    Copied(PathBuf),
    /// Made from what the parent holds in another form.
    Made(Vec<u8>),
}

impl Inherited {
    /// Where no parent says: the classes' own defaults would claim token ids that the vocabulary may use otherwise.
    pub fn nothing() -> Self {
        let ids = ["bos_token_id", "eos_token_id"].map(|key| (key.to_owned(), Value::Null));
        Self { config_keys: ids.into_iter().collect(), files: Vec::new() }
    }

    /// Puts the files into a directory under construction.
    ///
    /// # Errors
    /// [`WeightError::NotFound`], [`WeightError::Io`].
    pub fn write(&self, disk: &Arc<dyn Disk>, partial: &mut PartialDirectory) -> Result<(), WeightError> {
        for (name, content) in &self.files {
            match content {
                Content::Made(bytes) => partial.write(name, bytes)?,
                Content::Copied(from) => {
                    let source = open_regular(&**disk, from)?;
                    let mut file = partial.begin(name)?;
                    let mut written = Ok(());
                    read_through(&*source, &mut |_| (), &mut |bytes| {
                        if written.is_ok() {
                            written = file.push(bytes);
                        }
                    })
                    .map_err(WeightError::io(from))?;
                    written?;
                    partial.finish(file)?;
                }
            }
        }
        Ok(())
    }
}
