//! What is to be grown: a base, or the models of a mergekit file.

use std::path::{Path, PathBuf};

use super::UpscaleError;
use crate::growth::mergekit::{MergeConfig, MergeNotice, ModelRef, TokenizerSource};
use crate::output::disk::Disk;
use crate::output::read::read_bounded;

/// Size of the largest mergekit file.
const CONFIG_LIMIT_BYTES: u64 = 1 << 20;

/// What is to be grown, by name: nothing is opened but a mergekit file.
#[derive(Debug, Clone)]
pub enum Request {
    /// A base by its path or hub id.
    Base(String),
    /// The models of a mergekit file.
    Merge {
        /// The file.
        file: PathBuf,
        /// What it says.
        config: Box<MergeConfig>,
        /// Its text.
        text: Vec<u8>,
    },
}

impl Request {
    /// Reads `source` if it is a mergekit file, by its name.
    ///
    /// # Errors
    /// [`UpscaleError::File`], [`UpscaleError::Merge`].
    pub fn read(disk: &dyn Disk, source: &str) -> Result<Self, UpscaleError> {
        if !is_mergekit_file(source) {
            return Ok(Self::Base(source.to_owned()));
        }
        let file = PathBuf::from(source);
        let text = read_bounded(disk, &file, CONFIG_LIMIT_BYTES)?;
        let config = Box::new(MergeConfig::parse(&file, &text)?);
        Ok(Self::Merge { file, config, text })
    }

    /// Whether a mergekit file decides.
    pub fn is_merge(&self) -> bool {
        matches!(self, Self::Merge { .. })
    }

    /// The notices of the mergekit file.
    pub fn notices(&self) -> &[MergeNotice] {
        match self {
            Self::Base(_) => &[],
            Self::Merge { config, .. } => config.notices(),
        }
    }

    /// The names of the models whose weights are read, in order.
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Base(name) => vec![name.clone()],
            Self::Merge { config, .. } => config.models().iter().map(ModelRef::to_string).collect(),
        }
    }

    /// The name of a model that only provides the tokenizer.
    pub fn tokenizer_model(&self) -> Option<String> {
        let Self::Merge { config, .. } = self else { return None };
        let MergeConfig::Passthrough(config) = &**config else { return None };
        match config.tokenizer() {
            Some(TokenizerSource::Model(model)) if !config.models().contains(model) => Some(model.to_string()),
            _ => None,
        }
    }

    /// Index of the model that provides the config keys and, unless another is named, the tokenizer.
    pub(super) fn main_model(&self) -> usize {
        let Self::Merge { config, .. } = self else { return 0 };
        match &**config {
            MergeConfig::Moe(config) => config.base_model(),
            MergeConfig::Passthrough(config) => config.base_model().unwrap_or(0),
        }
    }

    /// Index of the model that provides the tokenizer, if it is one whose weights are read.
    pub(super) fn tokenizer_index(&self) -> usize {
        let Self::Merge { config, .. } = self else { return 0 };
        match &**config {
            MergeConfig::Passthrough(passthrough) => match passthrough.tokenizer() {
                Some(TokenizerSource::Model(model)) => {
                    passthrough.models().iter().position(|known| known == model).unwrap_or(0)
                }
                _ => self.main_model(),
            },
            MergeConfig::Moe(_) => self.main_model(),
        }
    }

    /// The path of a model beside the mergekit file, if there is one; other names are for the caller to locate.
    pub fn beside(&self, name: &str) -> Option<PathBuf> {
        let Self::Merge { file, .. } = self else { return None };
        let path = file.parent().unwrap_or(Path::new("")).join(name);
        path.exists().then_some(path)
    }
}

fn is_mergekit_file(source: &str) -> bool {
    Path::new(source).extension().is_some_and(|ending| ending == "yml" || ending == "yaml")
}
