//! Weights of a source as parameters, and the memory that they take.

mod footprint;
mod loader;
mod precision;
mod raw;

pub use footprint::Footprint;
pub use loader::Loader;
pub use precision::Precision;
pub(crate) use raw::{raw, raw_of};
