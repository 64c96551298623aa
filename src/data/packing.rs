//! Examples packed into rows of a fixed length, from their lengths alone.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// Tokens of an example in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Index of the example.
    pub example: usize,
    /// Which of its tokens, never none.
    pub tokens: Range<usize>,
}

/// Packs whole examples by best-fit decreasing: from the longest to the shortest, each goes into the row with the least space
/// that holds it, or a new one (Ding et al., 2024, arXiv:2404.10830, §3). Of an example longer than a row, the first
/// `seq_length` tokens are taken. Examples without tokens are left out.
///
/// Equal examples keep their order, and of rows with equal space the one that has had it longest comes first: the rows are
/// those of TRL's strategy `bfd`. Takes `O(n log n)` time for `n` examples.
///
/// # Panics
/// If `seq_length` is 0.
pub fn best_fit_decreasing(lengths: &[usize], seq_length: usize) -> Vec<Vec<Segment>> {
    assert!(seq_length > 0, "rows of 0 tokens");
    let taken = |example: usize| lengths[example].min(seq_length);
    let mut order: Vec<usize> = (0..lengths.len()).filter(|example| lengths[*example] > 0).collect();
    order.sort_by_key(|example| Reverse(taken(*example)));
    let mut rows: Vec<Vec<Segment>> = Vec::new();
    // Rows by their space, without full ones.
    let mut by_space: BTreeMap<usize, VecDeque<usize>> = BTreeMap::new();
    for example in order {
        let length = taken(example);
        let (space, row) = match by_space.range_mut(length..).next() {
            Some((space, queue)) => (*space, queue.pop_front().expect("a queue with a row")),
            None => {
                rows.push(Vec::new());
                (seq_length, rows.len() - 1)
            }
        };
        if by_space.get(&space).is_some_and(VecDeque::is_empty) {
            by_space.remove(&space);
        }
        rows[row].push(Segment { example, tokens: 0..length });
        if space > length {
            by_space.entry(space - length).or_default().push_back(row);
        }
    }
    rows
}

/// Joins the examples in their order and cuts them into rows of `seq_length` tokens, of which the last may be shorter: TRL's
/// strategy `wrapped`. No token is lost, but examples are cut.
///
/// # Panics
/// If `seq_length` is 0.
pub fn wrapped(lengths: &[usize], seq_length: usize) -> Vec<Vec<Segment>> {
    assert!(seq_length > 0, "rows of 0 tokens");
    let mut rows: Vec<Vec<Segment>> = Vec::new();
    let mut space = 0;
    for (example, length) in lengths.iter().enumerate() {
        let mut start = 0;
        while start < *length {
            if space == 0 {
                rows.push(Vec::new());
                space = seq_length;
            }
            let end = length.min(&(start + space)).to_owned();
            rows.last_mut().expect("a row with space").push(Segment { example, tokens: start..end });
            space -= end - start;
            start = end;
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    /// Rows packed by TRL.
    #[derive(Deserialize)]
    struct Golden {
        seq_length: usize,
        lengths: Vec<usize>,
        /// The examples of each row.
        bfd: Vec<Vec<usize>>,
        /// Example and number of tokens of each segment of each row.
        wrapped: Vec<Vec<(usize, usize)>>,
    }

    fn golden() -> Vec<Golden> {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data/packing.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    fn examples(rows: &[Vec<Segment>]) -> Vec<Vec<usize>> {
        rows.iter().map(|row| row.iter().map(|segment| segment.example).collect()).collect()
    }

    fn space_used(row: &[Segment]) -> usize {
        row.iter().map(|segment| segment.tokens.len()).sum()
    }

    #[test]
    fn rows_are_those_of_trl() {
        assert!(golden().len() > 5);
        for case in golden() {
            assert_eq!(examples(&best_fit_decreasing(&case.lengths, case.seq_length)), case.bfd);
            let rows = wrapped(&case.lengths, case.seq_length);
            let found: Vec<Vec<_>> = rows
                .iter()
                .map(|row| row.iter().map(|segment| (segment.example, segment.tokens.len())).collect())
                .collect();
            assert_eq!(found, case.wrapped);
        }
    }

    #[test]
    fn a_long_example_is_cut_and_an_empty_one_left_out() {
        let segment = |example, tokens| Segment { example, tokens };
        let rows = best_fit_decreasing(&[5, 0, 2, 3, 1], 4);
        assert_eq!(rows, [vec![segment(0, 0..4)], vec![segment(3, 0..3), segment(4, 0..1)], vec![segment(2, 0..2)]]);
        let rows = wrapped(&[5, 0, 2], 4);
        assert_eq!(rows, [vec![segment(0, 0..4)], vec![segment(0, 4..5), segment(2, 0..2)]]);
        assert!(best_fit_decreasing(&[], 4).is_empty() && wrapped(&[0], 4).is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn every_example_is_in_one_row_and_no_two_rows_fit_into_one(
            lengths in prop::collection::vec(0_usize..40, 0..200), seq_length in 1_usize..40,
        ) {
            let rows = best_fit_decreasing(&lengths, seq_length);
            let mut packed: Vec<&Segment> = rows.iter().flatten().collect();
            packed.sort_by_key(|segment| segment.example);
            let expected: Vec<Segment> = lengths.iter().enumerate().filter(|(_, length)| **length > 0)
                .map(|(example, length)| Segment { example, tokens: 0..*length.min(&seq_length) }).collect();
            prop_assert_eq!(packed, expected.iter().collect::<Vec<_>>());
            let mut used: Vec<usize> = rows.iter().map(|row| space_used(row)).collect();
            used.sort_unstable();
            prop_assert!(used.iter().all(|used| *used <= seq_length));
            prop_assert!(used.len() < 2 || used[0] + used[1] > seq_length, "{:?}", used);
        }

        #[test]
        fn wrapped_rows_are_full_and_lose_no_token(
            lengths in prop::collection::vec(0_usize..40, 0..100), seq_length in 1_usize..40,
        ) {
            let rows = wrapped(&lengths, seq_length);
            prop_assert!(rows.iter().rev().skip(1).all(|row| space_used(row) == seq_length));
            let tokens = |(example, tokens): (usize, Range<usize>)| tokens.map(move |token| (example, token));
            let packed: Vec<_> = rows.iter().flatten()
                .flat_map(|segment| tokens((segment.example, segment.tokens.clone()))).collect();
            let expected: Vec<_> = lengths.iter().enumerate().flat_map(|(example, length)| tokens((example, 0..*length))).collect();
            prop_assert_eq!(packed, expected);
        }
    }
}
