//! Growth is a view: plans over configs, applied to weights only as they are read.
//!
//! A [`GrowthPlan`] decides for every weight of the grown decoder how it is made: a [`Recipe`](crate::weights::Recipe).
//! [`Grown`] applies a list of plans to a [`WeightSource`](crate::weights::WeightSource) and is one itself, so what is
//! grown can be loaded into a model or written to a checkpoint without an intermediate file. What no plan changes
//! (embeddings, norms, attention, head) keeps its bytes.
//!
//! ```
//! use deepwide::config::DecoderConfig;
//! use deepwide::growth::{Grown, GrowthPlan, UpcyclePlan};
//! use deepwide::weights::{MemoryWeights, WeightSource};
//!
//! let base = MemoryWeights::untrained(DecoderConfig::pico(), 0.02, 0);
//! let deep = GrowthPlan::DepthUpScaling { overlap: 2 };
//! let wide = GrowthPlan::Upcycle(UpcyclePlan::new(4, 2));
//! let grown = Grown::all(base, [deep, wide])?;
//! assert_eq!(grown.config().num_hidden_layers, 12);
//! assert!(grown.config().moe.is_some());
//! # Ok::<(), deepwide::growth::PlanError>(())
//! ```

mod depth;
mod drawing;
mod error;
mod granularity;
mod grown;
mod making;
mod merge_experts;
mod merge_layers;
pub mod mergekit;
mod plan;
mod routers;
mod statistics;
mod width;

pub use depth::LayerPlan;
pub use error::PlanError;
pub use grown::Grown;
use merge_experts::MergedRouter;
pub use merge_experts::{ExpertMerge, MergedExpert};
pub use merge_layers::{LayerMerge, MergedLayer};
pub use plan::GrowthPlan;
pub use routers::RouterRows;
use routers::normalized;
pub use width::{ExpertInit, UpcyclePlan};

pub use crate::weights::RouterInit;
