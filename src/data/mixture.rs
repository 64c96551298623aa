//! The order in which training visits the rows of several sources.

use super::permutation::Permutation;

/// Rows of several sources, of which an epoch visits each as often as its weight says: a source of `n` rows and weight `w` has
/// `w·n` visits, rounded, in an epoch.
///
/// A weight of 2 visits each row twice. A weight of 0.4 visits two fifths of the rows, and the next epochs visit the others
/// before any is repeated. The visits of an epoch come in a random order. All of it is a function of the seed and the
/// position, so nothing has to be buffered or saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mixture {
    sources: Vec<Source>,
    seed: u64,
    num_visits: u64,
}

/// The rows and the visits of one source, which follow those of the sources before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Source {
    first_row: u64,
    num_rows: u64,
    first_visit: u64,
    num_visits: u64,
}

impl Mixture {
    /// The order of sources with these numbers of rows and weights. A source has at least one visit.
    ///
    /// # Panics
    /// If there is no source, one has no row, or a weight is not a finite number above 0.
    pub fn new(sources: impl IntoIterator<Item = (u64, f64)>, seed: u64) -> Self {
        let (mut found, mut num_rows, mut num_visits) = (Vec::new(), 0, 0);
        for (rows, weight) in sources {
            assert!(rows > 0 && weight.is_finite() && weight > 0.0, "{rows} rows of weight {weight}");
            // Exact for a weight of 1, which a float of the product may not be.
            let visits = if weight == 1.0 { rows } else { ((rows as f64 * weight).round() as u64).max(1) };
            found.push(Source { first_row: num_rows, num_rows: rows, first_visit: num_visits, num_visits: visits });
            num_rows += rows;
            num_visits += visits;
        }
        assert!(!found.is_empty(), "a mixture of nothing");
        Self { sources: found, seed, num_visits }
    }

    /// Visits in an epoch.
    pub fn num_visits(&self) -> u64 {
        self.num_visits
    }

    /// The row at a position that counts from the start of the first epoch, as its index in the rows of all sources.
    pub fn row_at(&self, position: u64) -> u64 {
        let (epoch, place) = (position / self.num_visits, position % self.num_visits);
        let visit = Permutation::new(self.num_visits, self.seed, epoch).at(place);
        let index = self.sources.partition_point(|source| source.first_visit <= visit) - 1;
        let source = self.sources[index];
        let visit = visit - source.first_visit;
        // Whole passes over the source are ordered by the permutation of the epoch; the visits that are left over continue
        // a stream of permutations of its rows.
        let num_left_over = source.num_visits % source.num_rows;
        let row = match visit.checked_sub(source.num_visits - num_left_over) {
            None => visit % source.num_rows,
            Some(left_over) => {
                let position = epoch * num_left_over + left_over;
                let seed = self.seed.wrapping_add(1 + index as u64);
                Permutation::new(source.num_rows, seed, position / source.num_rows).at(position % source.num_rows)
            }
        };
        source.first_row + row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(mixture: &Mixture, epochs: std::ops::Range<u64>, num_rows: usize) -> Vec<usize> {
        let mut counts = vec![0; num_rows];
        let positions = epochs.start * mixture.num_visits()..epochs.end * mixture.num_visits();
        positions.for_each(|position| counts[mixture.row_at(position) as usize] += 1);
        counts
    }

    #[test]
    fn an_epoch_visits_each_row_as_often_as_its_weight_says() {
        let mixture = Mixture::new([(40, 1.0), (30, 3.0), (5, 1.0)], 7);
        assert_eq!(mixture.num_visits(), 135);
        for epoch in 0..3 {
            let counts = counts(&mixture, epoch..epoch + 1, 75);
            assert!(counts[..40].iter().chain(&counts[70..]).all(|count| *count == 1), "{counts:?}");
            assert!(counts[40..70].iter().all(|count| *count == 3), "{counts:?}");
        }
    }

    #[test]
    fn a_fraction_reaches_every_row_before_one_is_repeated() {
        let mixture = Mixture::new([(10, 1.0), (50, 0.4), (20, 1.25)], 1);
        assert_eq!(mixture.num_visits(), 10 + 20 + 25);
        for epochs in 1..8 {
            let counts = counts(&mixture, 0..epochs, 80);
            for (rows, weight) in [(10..60, 0.4), (60..80, 1.25)] {
                let expected = weight * epochs as f64;
                let even = |count: &usize| (*count as f64 - expected).abs() < 1.0;
                assert!(counts[rows].iter().all(even), "{epochs} epochs: {counts:?}");
            }
        }
    }

    #[test]
    fn one_source_of_weight_1_is_ordered_by_the_permutation_of_each_epoch() {
        let mixture = Mixture::new([(23, 1.0)], 5);
        for position in 0..60 {
            assert_eq!(mixture.row_at(position), Permutation::new(23, 5, position / 23).at(position % 23));
        }
    }

    #[test]
    fn sources_are_mixed_evenly_over_an_epoch() {
        let mixture = Mixture::new([(10_000, 1.0), (5_000, 2.0)], 3);
        for part in 0..10 {
            let positions = part * 2_000..(part + 1) * 2_000;
            let first = positions.filter(|position| mixture.row_at(*position) < 10_000).count();
            // Five standard deviations of a share of one half.
            assert!(first.abs_diff(1_000) < 5 * 23, "{first} of part {part}");
        }
    }

    #[test]
    fn a_source_far_below_one_row_per_epoch_is_visited() {
        let mixture = Mixture::new([(100, 1.0), (3, 0.01)], 0);
        assert_eq!(mixture.num_visits(), 101);
        assert_eq!(counts(&mixture, 0..3, 103)[100..], [1, 1, 1]);
    }
}
