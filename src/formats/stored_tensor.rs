//! A tensor as stored in a file, of any format.

use serde::Serialize;

/// A tensor as stored in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoredTensor {
    /// Its name in the file.
    pub name: String,
    /// Its number format, as spelled by the file.
    pub format: String,
    /// Sizes of its axes, slowest first.
    pub shape: Vec<usize>,
    /// Its size.
    pub size_bytes: u64,
}
