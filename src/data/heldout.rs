//! Documents that are kept from training.

use serde::{Deserialize, Serialize};

/// A random share of documents that is kept from training, to measure the loss on.
///
/// Whether a document is in it depends on the seed and its bytes alone: not on its place, nor on the documents around it. So
/// more data leaves the old documents where they are, and copies of a document are on one side.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// Share of the documents, above 0 and below 1.
    pub fraction: f64,
    /// Which share.
    pub seed: u64,
}

impl HeldOut {
    /// Whether a document is held out: if BLAKE3 of the seed and its bytes, as a number from 0 to 1, is below the fraction.
    pub fn contains(&self, document: &[u8]) -> bool {
        let mut hash = blake3::Hasher::new();
        hash.update(&self.seed.to_le_bytes()).update(document);
        let mut first = [0; 8];
        hash.finalize_xof().fill(&mut first);
        (u64::from_le_bytes(first) as f64) < self.fraction * 2_f64.powi(64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_documents_is_held_out() {
        let held_out = |fraction, seed| {
            let share = HeldOut { fraction, seed };
            (0..10_000_u32).filter(|document| share.contains(&document.to_le_bytes())).collect::<Vec<_>>()
        };
        // Five standard deviations.
        assert!(held_out(0.1, 1).len().abs_diff(1000) < 5 * 30);
        assert_eq!(held_out(0.1, 1), held_out(0.1, 1));
        assert_ne!(held_out(0.1, 1), held_out(0.1, 2));
        let larger = held_out(0.2, 1);
        assert!(held_out(0.1, 1).iter().all(|document| larger.contains(document)), "a larger share adds documents");
    }

    #[test]
    fn the_share_never_moves() {
        let share = HeldOut { fraction: 0.5, seed: 1 };
        let held_out: Vec<&str> =
            ["a", "b", "c", "d", "e", "f"].into_iter().filter(|text| share.contains(text.as_bytes())).collect();
        assert_eq!(held_out, ["b", "d", "e"]);
    }
}
