//! Documents of files in memory by what becomes of them, and those that are both evaluated and trained.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::rows::{Rows, TextRows};
use crate::data::RowSplit;

/// Documents in memory, whose rows are trained or held out.
#[derive(Debug, Clone)]
pub(super) struct SplitTexts {
    rows: Arc<TextRows>,
    split: RowSplit,
}

/// Documents that are evaluated, and how many of them are trained, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overlap {
    /// Those of which an equal document is trained.
    pub num_shared: usize,
    /// All.
    pub num_evaluated: usize,
}

impl SplitTexts {
    pub fn new(rows: Arc<TextRows>, split: RowSplit) -> Self {
        Self { rows, split }
    }

    /// The documents with a target in one of the rows.
    fn documents(&self, rows: impl Iterator<Item = u64>) -> BTreeSet<usize> {
        rows.flat_map(|row| self.rows.documents_of(row)).collect()
    }

    fn trained(&self) -> BTreeSet<usize> {
        self.documents((0..self.split.num_train()).map(|index| self.split.train(index)))
    }

    fn heldout(&self) -> BTreeSet<usize> {
        self.documents(self.split.heldout())
    }

    fn hash(&self, document: usize) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let ids: Vec<u8> = self.rows.document(document).iter().flat_map(|id| id.to_le_bytes()).collect();
        *hasher.update(&ids).finalize().as_bytes()
    }
}

/// Compares the documents held out of `texts`, or all of `evaluated`, with those of `texts` that are trained. A document that is cut
/// into rows of both kinds is no overlap: another one must equal it.
pub(super) fn overlap(texts: &[SplitTexts], evaluated: Option<&[SplitTexts]>) -> Overlap {
    let heldout: Vec<BTreeSet<usize>> = match evaluated {
        None => texts.iter().map(SplitTexts::heldout).collect(),
        Some(evaluated) => evaluated.iter().map(|texts| texts.documents(0..texts.rows.len())).collect(),
    };
    let num_evaluated = heldout.iter().map(BTreeSet::len).sum();
    if num_evaluated == 0 {
        return Overlap::default();
    }
    let trained: Vec<BTreeSet<usize>> = texts.iter().map(SplitTexts::trained).collect();
    let mut num_trained: HashMap<[u8; 32], usize> = HashMap::new();
    for (texts, documents) in texts.iter().zip(&trained) {
        documents.iter().for_each(|document| *num_trained.entry(texts.hash(*document)).or_default() += 1);
    }
    let is_shared = |texts: &SplitTexts, source: usize, document: usize| {
        let is_itself_trained = evaluated.is_none() && trained[source].contains(&document);
        num_trained.get(&texts.hash(document)).is_some_and(|count| *count > usize::from(is_itself_trained))
    };
    let sources = evaluated.unwrap_or(texts).iter().zip(&heldout).enumerate();
    let shared = sources.map(|(source, (texts, documents))| {
        documents.iter().filter(|document| is_shared(texts, source, **document)).count()
    });
    Overlap { num_shared: shared.sum(), num_evaluated }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Document;

    /// Rows of 4 inputs of the documents, each ended by 0; the first `num_heldout` in the order of the split are held out.
    fn texts(documents: &[&[u32]], num_heldout: u64) -> SplitTexts {
        let ended = |ids: &&[u32]| Document { ids: [ids, &[0][..]].concat(), logprobs: None, topic: None };
        let documents: Vec<Document> = documents.iter().map(ended).collect();
        let rows = Arc::new(TextRows::new(&documents, 4));
        let split = RowSplit::new(rows.len(), num_heldout);
        SplitTexts::new(rows, split)
    }

    #[test]
    fn documents_that_are_evaluated_and_trained_are_counted() {
        let [a, b, c]: [&[u32]; 3] = [&[1, 2, 3, 4, 5, 6, 7], &[8, 9], &[10, 11, 12]];
        let trained = [texts(&[a, b], 0), texts(&[c, c], 0)];
        let shared = |evaluated: &[&[u32]]| overlap(&trained, Some(&[texts(evaluated, 0)]));
        assert_eq!(shared(&[b, &[1, 2, 3], c]), Overlap { num_shared: 2, num_evaluated: 3 });
        // Rows begin elsewhere, and the document is the same.
        assert_eq!(shared(&[&[5], a]).num_shared, 1);
        assert_eq!(shared(&[&[8, 9, 10]]), Overlap { num_shared: 0, num_evaluated: 1 });
    }

    #[test]
    fn a_document_that_is_held_out_in_part_is_shared_only_with_a_copy() {
        let long: Vec<u32> = (1..40).collect();
        let apart = texts(&[&long], 3);
        assert_eq!(overlap(&[apart], None), Overlap { num_shared: 0, num_evaluated: 1 });
        let Overlap { num_shared, num_evaluated } = overlap(&[texts(&[&long, &long], 3)], None);
        assert!(num_shared > 0 && num_shared == num_evaluated, "{num_shared} of {num_evaluated}");
        assert_eq!(overlap(&[texts(&[&long, &long], 0)], None), Overlap::default(), "nothing is held out");
    }
}
