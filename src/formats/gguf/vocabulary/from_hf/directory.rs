//! Reads the files about text of a Hugging Face directory.

use std::io;
use std::path::Path;

use super::HfTokenizer;
use crate::error::{FileError, FileFault, InFile};
use crate::formats::chat_templates::{self, CHAT_TEMPLATE};
use crate::output::disk::Disk;
use crate::output::read::read_bounded;

const LIMIT_BYTES: u64 = 256 << 20;

impl HfTokenizer {
    /// Reads `tokenizer.json`, and `tokenizer_config.json` and the chat templates as far as they are there.
    ///
    /// # Errors
    /// If there is no `tokenizer.json`, a file cannot be read or is not UTF-8, or a template has an unsafe name.
    pub fn open_on(disk: &dyn Disk, directory: &Path) -> Result<Self, FileError> {
        Self::with_settings_of(disk, directory, text(disk, &directory.join("tokenizer.json"))?)
    }

    /// Reads the files beside this `tokenizer.json`.
    pub(crate) fn with_settings_of(
        disk: &dyn Disk,
        directory: &Path,
        tokenizer_json: String,
    ) -> Result<Self, FileError> {
        let optional = |name: &str| match text(disk, &directory.join(name)) {
            Err(InFile { fault: FileFault::NotFound, .. }) => Ok(None),
            result => result.map(Some),
        };
        let named = |file: String| {
            let name = chat_templates::name_of(&file).unwrap_or_default().to_owned();
            Ok((name, text(disk, &directory.join(file))?))
        };
        let named_chat_templates = chat_templates::files_in(disk, directory)?.into_iter().map(named);
        Ok(Self {
            tokenizer_json,
            tokenizer_config_json: optional("tokenizer_config.json")?,
            chat_template: optional(CHAT_TEMPLATE)?,
            named_chat_templates: named_chat_templates.collect::<Result<_, FileError>>()?,
        })
    }
}

fn text(disk: &dyn Disk, path: &Path) -> Result<String, FileError> {
    let no_text = |error| FileError::io(path)(io::Error::new(io::ErrorKind::InvalidData, error));
    String::from_utf8(read_bounded(disk, path, LIMIT_BYTES)?).map_err(no_text)
}
