//! Rows that are kept from training.

use super::permutation::Permutation;

/// Rows of a source, split at random into those to train on and those held out.
///
/// The split depends on the numbers alone, not on a seed: runs with different seeds are evaluated on the same rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowSplit {
    /// `None` if every row is trained.
    order: Option<Permutation>,
    num_rows: u64,
    num_heldout: u64,
}

impl RowSplit {
    /// Holds out `num_heldout` of `num_rows` rows.
    ///
    /// # Panics
    /// If there are fewer rows.
    pub fn new(num_rows: u64, num_heldout: u64) -> Self {
        assert!(num_heldout <= num_rows, "{num_heldout} of {num_rows} rows");
        let order = (num_heldout > 0).then(|| Permutation::new(num_rows, 0, u64::MAX));
        Self { order, num_rows, num_heldout }
    }

    /// Number of rows to train on.
    pub fn num_train(&self) -> u64 {
        self.num_rows - self.num_heldout
    }

    /// The row with an index among those to train on.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn train(&self, index: u64) -> u64 {
        assert!(index < self.num_train(), "row {index} of {}", self.num_train());
        self.order.map_or(index, |order| order.at(self.num_heldout + index))
    }

    /// The rows that are held out. More held-out rows begin with the same ones.
    pub fn heldout(&self) -> impl Iterator<Item = u64> + use<> {
        let order = self.order;
        (0..self.num_heldout).map(move |index| order.expect("rows are held out").at(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_trained_or_held_out() {
        for (num_rows, num_heldout) in [(1, 0), (1, 1), (10, 3), (1000, 50)] {
            let split = RowSplit::new(num_rows, num_heldout);
            let trained = (0..split.num_train()).map(|index| split.train(index));
            let mut rows: Vec<u64> = trained.chain(split.heldout()).collect();
            rows.sort_unstable();
            assert_eq!(rows, (0..num_rows).collect::<Vec<_>>());
        }
    }

    #[test]
    fn held_out_rows_are_from_everywhere() {
        let heldout: Vec<u64> = RowSplit::new(1000, 100).heldout().collect();
        let in_first_half = heldout.iter().filter(|row| **row < 500).count();
        assert!((30..70).contains(&in_first_half), "{in_first_half}");
        assert_eq!(heldout[..50], RowSplit::new(1000, 50).heldout().collect::<Vec<_>>());
    }

    #[test]
    fn without_held_out_rows_all_keep_their_places() {
        let split = RowSplit::new(5, 0);
        assert_eq!((0..5).map(|index| split.train(index)).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert_eq!(split.heldout().count(), 0);
    }
}
