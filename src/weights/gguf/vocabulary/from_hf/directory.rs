//! Reads the files about text of a Hugging Face directory.

use std::io::Read;
use std::path::Path;

use super::HfTokenizer;
use crate::weights::WeightError;
use crate::weights::disk::{Disk, FromStart, Kind};

const LIMIT_BYTES: u64 = 256 << 20;

impl HfTokenizer {
    /// Reads `tokenizer.json`, and `tokenizer_config.json` and `chat_template.jinja` as far as they are there.
    ///
    /// # Errors
    /// [`WeightError::NotFound`] if there is no `tokenizer.json`; [`WeightError::NotAFile`]; [`WeightError::TooLarge`]; [`WeightError::Io`], also for
    /// what is no UTF-8.
    pub fn open_on(disk: &dyn Disk, directory: &Path) -> Result<Self, WeightError> {
        let optional = |name: &str| match text(disk, &directory.join(name)) {
            Err(WeightError::NotFound { .. }) => Ok(None),
            result => result.map(Some),
        };
        Ok(Self {
            tokenizer_json: text(disk, &directory.join("tokenizer.json"))?,
            tokenizer_config_json: optional("tokenizer_config.json")?,
            chat_template: optional("chat_template.jinja")?,
        })
    }
}

fn text(disk: &dyn Disk, path: &Path) -> Result<String, WeightError> {
    if disk.stat(path).map_err(WeightError::io(path))?.kind != Kind::File {
        return Err(WeightError::NotAFile { path: path.to_owned() });
    }
    let file = disk.open(path).map_err(WeightError::io(path))?;
    let found_bytes = file.stat().map_err(WeightError::io(path))?.size_bytes;
    if found_bytes > LIMIT_BYTES {
        return Err(WeightError::TooLarge { path: path.to_owned(), found_bytes, limit_bytes: LIMIT_BYTES });
    }
    let mut text = String::new();
    FromStart::new(&*file).take(LIMIT_BYTES).read_to_string(&mut text).map_err(WeightError::io(path))?;
    Ok(text)
}
