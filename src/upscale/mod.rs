//! Growing a checkpoint, from what was asked for to a view that can be written and checked.
//!
//! A [`Request`] names a base or a mergekit file; [`Sources`] are its checkpoints, opened; a [`Growth`] is their grown view
//! with what is worth knowing before it is written: a [`Forecast`] of layers and costs, and warnings. A [`GrowthWriter`] writes
//! it with its model card and receipt. Afterwards [`Preservation`] measures what growth changed.

mod error;
mod fingerprint;
mod forecast;
mod growth;
mod layers;
mod merge;
mod mergekit_configs;
mod model_card;
mod noise;
mod preservation;
mod receipt;
mod request;
mod router_rows;
mod sources;
mod vocabularies;
mod writer;

pub use error::UpscaleError;
pub use fingerprint::{fingerprint, model_record};
pub use forecast::{Cost, FileSize, Forecast};
pub use growth::{Growth, GrowthRequest, MAX_LAYERS};
pub use layers::LayerRun;
pub use merge::MergeOptions;
pub use model_card::{Finish, model_card};
pub use noise::{NoiseSample, WrittenAs};
pub use preservation::{CheckText, Preservation};
pub use receipt::{Provenance, parents, receipt};
pub use request::Request;
pub use sources::Sources;
pub use writer::{GrowthWriter, OutputFormat};
