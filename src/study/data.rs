//! The text of a study: fresh documents of the built-in language, or a file.

use std::path::Path;

use super::defaults::HELDOUT_FRACTION;
use super::error::StudyError;
use crate::data::language::{Language, Split};
use crate::data::text::read_documents;
use crate::data::{DataError, Windows, check_vocabulary};
use crate::formats::HfDirectory;
use crate::report::DataInfo;
use crate::tokenizer::Tokenizer;
use crate::weights::WeightSource;

/// The text of a study.
#[derive(Debug, Clone)]
pub struct StudyData {
    /// Training windows, in the same order for every arm.
    pub train: Windows,
    /// Held-out windows on which every arm is scored.
    pub heldout: Windows,
    /// Names of the topics; one name for text without any.
    pub topics: Vec<String>,
}

impl StudyData {
    /// Documents of the built-in language that the built-in base has not seen, none of them twice.
    ///
    /// # Errors
    /// Those of [`Windows::aligned`].
    pub fn builtin(seq_length: usize, num_windows: usize, heldout_windows: usize) -> Result<Self, DataError> {
        /// Documents before this one pretrained the built-in base.
        const FIRST_FRESH: u64 = 1 << 32;
        let language = &Language::builtin();
        let documents = |split, first: u64| (first..).map(move |index| language.document(split, index));
        Ok(Self {
            train: Windows::aligned(documents(Split::Train, FIRST_FRESH), seq_length, num_windows)?,
            heldout: Windows::aligned(documents(Split::HeldOut, 0), seq_length, heldout_windows)?,
            topics: language.topics().iter().map(|topic| (*topic).to_owned()).collect(),
        })
    }

    /// A file of text in the tokens of a base. The last tenth is held out; at most `heldout_windows` of it are scored.
    ///
    /// # Errors
    /// [`StudyError::TooLittleText`], [`StudyError::Data`], [`StudyError::Tokenizer`].
    pub fn from_file(
        file: &Path,
        base: &HfDirectory,
        seq_length: usize,
        heldout_windows: usize,
    ) -> Result<Self, StudyError> {
        let tokenizer = Tokenizer::from_directory_on(&**base.disk(), base.path())?;
        let documents = read_documents(file, &tokenizer)?;
        check_vocabulary(&documents, base.config().vocab_size)?;
        let found = documents.iter().map(|document| document.ids.len()).sum();
        let expected = 2 * seq_length + 1;
        if found < expected {
            return Err(StudyError::TooLittleText { path: file.to_owned(), found, expected, seq_length });
        }
        let windows = Windows::contiguous(&documents, seq_length)?;
        let (train, heldout) = windows.split_heldout(HELDOUT_FRACTION)?;
        Ok(Self { train, heldout: heldout.first(heldout_windows), topics: vec!["all text".to_owned()] })
    }

    /// Describes the text, for a record.
    pub(super) fn info(&self, name: String) -> DataInfo {
        let tokens = |windows: &Windows| (windows.len() * windows.seq_length()) as u64;
        DataInfo {
            name,
            train_tokens: tokens(&self.train),
            heldout_tokens: tokens(&self.heldout),
            blake3: Some(self.blake3()),
            floor_nats: self.heldout.floor_nats(),
            topics: self.topics.clone(),
        }
    }

    /// Hash of all tokens.
    pub(super) fn blake3(&self) -> String {
        let mut hash = blake3::Hasher::new();
        for windows in [&self.train, &self.heldout] {
            hash.update(&(windows.len() as u64).to_le_bytes());
            for window in 0..windows.len() {
                let ids = windows.inputs(window).iter().chain(windows.targets(window));
                hash.update(&ids.flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>());
            }
        }
        hash.finalize().to_hex().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_and_scoring_see_different_documents_of_the_language() {
        let data = StudyData::builtin(64, 6, 6).unwrap();
        let windows = |windows: &Windows| (0..6).map(|window| windows.inputs(window).to_vec()).collect::<Vec<_>>();
        let (train, heldout) = (windows(&data.train), windows(&data.heldout));
        assert!(train.iter().all(|window| !heldout.contains(window)));
        assert!(data.heldout.floor_nats().is_some_and(|floor| floor > 0.0));
        assert!(data.topics.len() > 1);
    }

    #[test]
    fn the_hash_sees_every_token_and_the_split() {
        let hash = |train, heldout| StudyData::builtin(64, train, heldout).unwrap().blake3();
        assert_eq!(hash(3, 2), hash(3, 2));
        assert!(hash(3, 2) != hash(4, 2) && hash(3, 2) != hash(3, 1));
    }
}
