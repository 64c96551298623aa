//! A config of either of mergekit's commands.

use std::path::Path;

use super::document::Document;
use super::error::{MergeError, MergeNotice};
use super::model_ref::ModelRef;
use super::moe::MoeMergeConfig;
use super::passthrough::PassthroughConfig;
use super::yaml::Node;
use crate::error::InFile;

/// A config of one of mergekit's commands.
#[derive(Debug, Clone, PartialEq)]
pub enum MergeConfig {
    /// `mergekit-yaml` with `merge_method: passthrough`.
    Passthrough(PassthroughConfig),
    /// `mergekit-moe`, which has `experts`.
    Moe(MoeMergeConfig),
}

impl MergeConfig {
    /// Reads the text of a config; `file` is its name in messages. No file is opened.
    ///
    /// # Errors
    /// The first broken rule, with its line and column.
    pub fn parse(file: impl AsRef<Path>, bytes: &[u8]) -> Result<Self, MergeError> {
        let file = file.as_ref();
        let mut notices = Vec::new();
        let root = Node::parse(bytes, &mut notices).map_err(InFile::at(file))?;
        let text = std::str::from_utf8(bytes).expect("YAML is UTF-8");
        let document = Document { file, text, root: &root, notices: &notices };
        let config = match document.is_moe() {
            true => MoeMergeConfig::read(document).map(Self::Moe),
            false => PassthroughConfig::read(document).map(Self::Passthrough),
        };
        config.map_err(InFile::at(file))
    }

    /// The distinct models that the merge reads, in the order of first mention.
    pub fn models(&self) -> &[ModelRef] {
        match self {
            Self::Passthrough(config) => config.models(),
            Self::Moe(config) => config.models(),
        }
    }

    /// What was read otherwise than a reader may think.
    pub fn notices(&self) -> &[MergeNotice] {
        match self {
            Self::Passthrough(config) => &config.notices,
            Self::Moe(config) => &config.notices,
        }
    }

    /// The name under which mergekit copies the config to the result.
    pub fn file_name(&self) -> &'static str {
        match self {
            Self::Passthrough(_) => "mergekit_config.yml",
            Self::Moe(_) => "mergekit_moe_config.yml",
        }
    }
}
