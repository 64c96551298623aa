//! Examples that are both evaluated and trained on, which make a held-out loss too low.

use std::collections::HashSet;

use crate::data::Example;

/// The items that are trained, each made of some examples, by hash.
#[derive(Debug, Clone, Default)]
pub struct TrainedItems(HashSet<[u8; 32]>);

impl TrainedItems {
    /// Adds an item.
    pub fn insert<'e>(&mut self, examples: impl IntoIterator<Item = &'e Example>) {
        self.0.insert(hash(examples));
    }

    /// How many of these items are trained, too.
    pub fn count<'e, I: IntoIterator<Item = &'e Example>>(&self, items: impl IntoIterator<Item = I>) -> usize {
        items.into_iter().map(hash).filter(|hash| self.0.contains(hash)).count()
    }
}

fn hash<'e>(examples: impl IntoIterator<Item = &'e Example>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for Example { ids, .. } in examples {
        hasher.update(&(ids.len() as u64).to_le_bytes());
        ids.iter().for_each(|id| {
            hasher.update(&id.to_le_bytes());
        });
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_the_same_if_all_their_examples_are() {
        let [a, b] = [vec![1, 2], vec![3]].map(Example::trained_whole);
        let mut trained = TrainedItems::default();
        trained.insert([&a, &b]);
        assert_eq!(trained.count([[&a, &b], [&b, &a]]), 1);
        assert_eq!(trained.count([[&a]]), 0);
    }
}
