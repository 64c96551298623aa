//! Data sets of benchmarks in local files.

mod layout;
mod split;

pub use layout::{DataSet, Split};
pub use split::{DataFile, SplitRows};
