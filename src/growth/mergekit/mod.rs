//! mergekit's YAML as growth plans: what people have, read as it is.
//!
//! [`MergeConfig::parse`] reads a config of `mergekit-yaml` (method `passthrough`) or `mergekit-moe` (a Mixtral out of
//! dense models) and refuses by name what growing does not do. The caller opens the models that it names; [`Merged`]
//! and [`MoeMerge`] are then sources like any other. Written anew from mergekit's documentation and behaviour
//! (version 0.1.5), bytes compared; where it is silent or wrong, `tests/golden/mergekit/README.md` says what differs.
//!
//! ```
//! use deepwide::growth::mergekit::{MergeConfig, Merged};
//! use deepwide::weights::{MemoryWeights, WeightSource};
//! use deepwide::config::DecoderConfig;
//!
//! let text = b"
//! slices:
//!   - sources: [{ model: base, layer_range: [0, 6] }]
//!   - sources: [{ model: base, layer_range: [2, 8] }]
//! merge_method: passthrough
//! dtype: bfloat16
//! ";
//! let MergeConfig::Passthrough(config) = MergeConfig::parse("dus.yml", text)? else { panic!("no experts") };
//! let sources = config.models().iter().map(|_| MemoryWeights::untrained(DecoderConfig::pico(), 0.02, 0)).collect();
//! let deep = Merged::new(&config, sources)?;
//! assert_eq!(deep.plan().to_string(), "base 0..6 ++ base 2..8 (12 layers)");
//! # Ok::<(), deepwide::growth::mergekit::MergeError>(())
//! ```

mod chat_template;
mod cheap_embed;
mod error;
mod fields;
mod merged;
mod model_ref;
mod moe;
mod moe_merge;
mod moe_plan;
mod passthrough;
mod plan;
mod setting;
mod write;
mod yaml;

pub use chat_template::ChatTemplate;
pub use cheap_embed::{PromptTokens, cheap_embed};
pub use error::{Difference, Fault, MergeError, MergeWarning, Position};
pub use merged::Merged;
pub use model_ref::ModelRef;
pub use moe::{ExpertSource, GateMode, MoeMergeConfig};
pub use moe_merge::MoeMerge;
pub use moe_plan::{MoeMergeOptions, MoeMergePlan};
pub use passthrough::{PassthroughConfig, TokenizerSource};
pub use plan::{MergePlan, MergedLayer};
pub use write::passthrough_yaml;

use yaml::Node;

/// A config of one of mergekit's commands.
#[derive(Debug, Clone, PartialEq)]
pub enum MergeConfig {
    /// `mergekit-yaml` with `merge_method: passthrough`.
    Passthrough(PassthroughConfig),
    /// `mergekit-moe`, which has `experts`.
    Moe(MoeMergeConfig),
}

impl MergeConfig {
    /// Reads the text of a config; `file` is its name in messages. Nothing that it names is looked at.
    ///
    /// # Errors
    /// The first broken rule, with its line and column.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, MergeError> {
        let document = Node::parse(file, bytes)?;
        if moe::is_moe(&document) {
            return Ok(Self::Moe(MoeMergeConfig::read(file, &document)?));
        }
        Ok(Self::Passthrough(PassthroughConfig::read(file, &document)?))
    }

    /// The distinct models that this merge reads, in the order in which it first names them.
    pub fn models(&self) -> &[ModelRef] {
        match self {
            Self::Passthrough(config) => config.models(),
            Self::Moe(config) => config.models(),
        }
    }

    /// Opens each of the [`models`](Self::models) once, in order.
    ///
    /// # Errors
    /// The first that `open` returns.
    pub fn open_models<S, E>(&self, open: impl FnMut(&ModelRef) -> Result<S, E>) -> Result<Vec<S>, E> {
        self.models().iter().map(open).collect()
    }

    /// The name under which mergekit keeps the text of the config, byte for byte, beside the result.
    pub fn kept_as(&self) -> &'static str {
        match self {
            Self::Passthrough(_) => "mergekit_config.yml",
            Self::Moe(_) => "mergekit_moe_config.yml",
        }
    }
}
