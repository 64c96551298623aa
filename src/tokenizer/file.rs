//! Tokenizers in files.

use std::path::Path;

use serde_json::json;

use super::{Tokenizer, TokenizerError, VocabularyFile, special_ids};
use crate::output::commit::write_file_atomically;
use crate::output::disk::{Disk, disk};

impl Tokenizer {
    /// Reads the tokenizer of a Hugging Face directory: `tokenizer.json`, or else `tokenizer.model`. The ids that begin and end
    /// a text are those that `tokenizer_config.json`, `generation_config.json` and `config.json` name, or else the
    /// `tokenizer.model`.
    ///
    /// Truncation, padding and random merges that a `tokenizer.json` asks for are left out: a text gives all its ids, no
    /// others, and always the same. A `tokenizer.model` gives the ids of transformers' `LlamaTokenizer`.
    ///
    /// # Errors
    /// [`TokenizerError::File`] if a file cannot be read; otherwise the variant of the first broken rule.
    pub fn from_directory(directory: &Path) -> Result<Self, TokenizerError> {
        Self::from_directory_on(&*disk(), directory)
    }

    /// As [`from_directory`](Self::from_directory), of a directory on `disk`.
    ///
    /// # Errors
    /// As [`from_directory`](Self::from_directory).
    pub fn from_directory_on(disk: &dyn Disk, directory: &Path) -> Result<Self, TokenizerError> {
        let file = VocabularyFile::open_on(disk, directory)?;
        let mut tokenizer = Self::from_json(file.to_json()?.as_bytes(), file.path())?;
        let (bos, eos) = special_ids(disk, directory, |token| tokenizer.token_to_id(token))?;
        (tokenizer.bos, tokenizer.eos) = (bos, eos);
        if let VocabularyFile::SentencePiece(model) = file {
            tokenizer.bos = tokenizer.bos.or(model.bos().map(|token| token.id));
            if tokenizer.eos.is_empty() {
                tokenizer.eos.extend(model.eos().map(|token| token.id));
            }
        }
        Ok(tokenizer)
    }

    /// Contents for `tokenizer_config.json`, so that other programs find the ids that begin and end a text.
    pub fn config_json(&self) -> String {
        let token = |id: Option<&u32>| id.and_then(|id| self.inner.id_to_token(*id));
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
            "bos_token": token(self.bos.as_ref()),
            "eos_token": token(self.eos.first()),
        });
        format!("{config:#}\n")
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json` into a directory.
    ///
    /// For a tokenizer made by [`word_level`](Self::word_level). One that was read from files is better copied with the
    /// files beside it: they hold more than this type does, such as a chat template.
    ///
    /// # Errors
    /// [`TokenizerError::File`].
    pub fn save(&self, directory: &Path) -> Result<(), TokenizerError> {
        for (name, text) in [("tokenizer.json", self.to_json()), ("tokenizer_config.json", self.config_json())] {
            let path = directory.join(name);
            write_file_atomically(&path, text.as_bytes())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_word_level_tokenizer_is_read_back_with_the_ids_that_begin_and_end_a_text() {
        let directory = tempfile::tempdir().unwrap();
        Tokenizer::word_level(&["<bos>", "red", "green", "<eos>"].map(String::from)).save(directory.path()).unwrap();
        let read = Tokenizer::from_directory(directory.path()).unwrap();
        assert_eq!(read.encode("<bos> green  red\n<eos>").unwrap(), [0, 2, 1, 3]);
        assert_eq!((read.bos(), read.eos(), read.vocab_size()), (Some(0), [3].as_slice(), 4));
    }
}
