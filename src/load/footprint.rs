//! The memory that weights take.

use std::collections::BTreeMap;

/// Bytes of the weights of a model by number format: `float32`, `bfloat16`, `Q4_0`. Shared memory counts once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Footprint {
    bytes: BTreeMap<String, u64>,
    unshared_bytes: u64,
    distinct_experts: Option<usize>,
}

impl Footprint {
    /// Bytes of all weights.
    pub fn size_bytes(&self) -> u64 {
        self.bytes.values().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes))
    }

    /// Bytes if no two weights shared memory, as after training.
    pub fn unshared_bytes(&self) -> u64 {
        self.unshared_bytes
    }

    /// Experts of a layer that do not share the memory of another, in the layer with the fewest; `None` if experts are never
    /// shared one by one, as those in floats are not.
    pub fn distinct_experts(&self) -> Option<usize> {
        self.distinct_experts
    }

    /// The format of the most bytes; `None` without weights.
    pub fn main_format(&self) -> Option<&str> {
        self.bytes.iter().max_by_key(|(_, bytes)| **bytes).map(|(format, _)| format.as_str())
    }

    /// Adds a weight, which may share the memory of another.
    pub(super) fn add(&mut self, format: &str, bytes: u64, is_shared: bool) {
        self.unshared_bytes = self.unshared_bytes.saturating_add(bytes);
        if !is_shared {
            let sum = self.bytes.entry(format.to_owned()).or_default();
            *sum = sum.saturating_add(bytes);
        }
    }

    /// Records the number of distinct experts of a layer.
    pub(super) fn add_experts(&mut self, distinct: usize) {
        self.distinct_experts = Some(self.distinct_experts.map_or(distinct, |fewest| fewest.min(distinct)));
    }
}
