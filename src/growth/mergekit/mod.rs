//! mergekit's YAML as growth plans.
//!
//! [`MergeConfig::parse`] reads a config of `mergekit-yaml` (method `passthrough`) or `mergekit-moe` (a Mixtral out of
//! dense models), and refuses by name what growing does not do. The caller opens the models; the config makes a plan for
//! [`Grown::merge`](super::Grown::merge) of theirs. Implemented from mergekit's documentation and behaviour (version
//! 0.1.5), with equal bytes; `tests/golden/mergekit/README.md` lists the differences.
//!
//! ```
//! use deepwide::config::DecoderConfig;
//! use deepwide::growth::mergekit::MergeConfig;
//! use deepwide::growth::{Grown, GrowthPlan};
//! use deepwide::weights::MemoryWeights;
//!
//! let text = b"
//! slices:
//!   - sources: [{ model: base, layer_range: [0, 6] }]
//!   - sources: [{ model: base, layer_range: [2, 8] }]
//! merge_method: passthrough
//! dtype: bfloat16
//! ";
//! let MergeConfig::Passthrough(config) = MergeConfig::parse("dus.yml", text)? else { panic!("no experts") };
//! let base = MemoryWeights::untrained(DecoderConfig::pico(), 0.02, 0);
//! let plan = config.plan(&[&DecoderConfig::pico()])?;
//! assert_eq!(plan.to_string(), "base 0..6 ++ base 2..8 (12 layers)");
//! let deep = Grown::merge(vec![base], [GrowthPlan::MergeLayers(plan)])?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod anchors;
mod chat_template;
mod cheap_embed;
mod config;
mod document;
mod error;
mod expert_plan;
mod field_fault;
mod fields;
mod layer_plan;
mod model_ref;
mod moe;
mod passthrough;
mod setting;
mod write;
mod yaml;
mod yaml_fault;

pub use chat_template::ChatTemplate;
pub use cheap_embed::{PromptTokens, cheap_embed};
pub use config::MergeConfig;
pub use error::{Difference, MergeError, MergeFault, MergeNotice, MergeRule, MergeWarning, Position};
pub use expert_plan::MoeMergeOptions;
pub use field_fault::FieldFault;
pub use model_ref::ModelRef;
pub use moe::{ExpertSource, GateMode, MoeMergeConfig};
pub use passthrough::{PassthroughConfig, TokenizerSource};
pub use write::{moe_yaml, passthrough_yaml};
pub use yaml_fault::YamlFault;
