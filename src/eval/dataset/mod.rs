//! Data sets of benchmarks in local files.

mod layout;
mod place;
mod split;

pub use layout::{DataSet, Split};
pub use place::DataPlace;
pub use split::{DataFile, SplitRows};
