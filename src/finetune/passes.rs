//! The passes of an update.

use std::ops::Range;

/// Products of fewer tokens than this spend a good part of their time on reading the weights.
const ENOUGH_TOKENS: usize = 512;

/// How the rows of an update are cut into forward and backward passes, over which gradients accumulate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassSize {
    /// Rows of a pass.
    pub micro_batch_size: usize,
    /// Tokens of a row, at most.
    pub max_length: usize,
    /// Whether the rows of a pass are padded to the longest.
    pub is_padded: bool,
}

impl PassSize {
    /// Ranges of rows of `lens` tokens: `micro_batch_size` rows each, and more of them while the pass has at most 512 tokens and
    /// no more than as many rows of `max_length` have. Short rows thus share the reading of the weights, in the memory that the
    /// longest rows need anyway.
    pub fn cut(&self, lens: &[usize]) -> Vec<Range<usize>> {
        let most = self.shared_tokens();
        let (mut passes, mut start) = (Vec::new(), 0);
        while start < lens.len() {
            let least = (start + self.micro_batch_size).min(lens.len());
            let more = (least..lens.len()).take_while(|last| self.num_tokens(&lens[start..=*last]) <= most).count();
            passes.push(start..least + more);
            start = least + more;
        }
        passes
    }

    /// Tokens of the largest pass of an update of `batch_size` rows of at most `longest` tokens.
    pub fn most_tokens(&self, batch_size: usize, longest: usize) -> usize {
        (self.micro_batch_size * longest).max(self.shared_tokens().min(batch_size * longest))
    }

    /// Tokens up to which a pass takes more rows.
    fn shared_tokens(&self) -> usize {
        ENOUGH_TOKENS.min(self.micro_batch_size.saturating_mul(self.max_length))
    }

    /// Tokens that are computed for sequences of these lengths, padding included.
    pub fn num_tokens(&self, lens: &[usize]) -> usize {
        if self.is_padded { lens.len() * lens.iter().max().unwrap_or(&0) } else { lens.iter().sum() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(micro_batch_size: usize, max_length: usize, lens: &[usize]) -> Vec<Range<usize>> {
        PassSize { micro_batch_size, max_length, is_padded: false }.cut(lens)
    }

    #[test]
    fn long_rows_are_cut_by_number_alone() {
        assert_eq!(cut(2, 1024, &[600, 600, 10, 900, 800]), [0..2, 2..4, 4..5]);
        assert_eq!(cut(1, 8, &[8, 8, 8]), [0..1, 1..2, 2..3]);
    }

    #[test]
    fn short_rows_fill_a_pass() {
        assert_eq!(cut(1, 1024, &[200, 200, 112, 1, 512, 30]), [0..3, 3..4, 4..5, 5..6]);
        // In the memory that one row of 256 tokens needs.
        assert_eq!(cut(1, 256, &[100, 156, 100, 157]), [0..2, 2..3, 3..4]);
        let padded = PassSize { micro_batch_size: 1, max_length: 256, is_padded: true };
        assert_eq!(padded.cut(&[100, 156, 100, 120]), [0..1, 1..2, 2..4]);
    }

    #[test]
    fn passes_cover_every_row_once_within_the_most_tokens() {
        let lens: Vec<usize> = (0..97).map(|i| 1 + i * i * 7 % 300).collect();
        for (micro_batch_size, is_padded) in [(1, false), (1, true), (3, false), (8, true), (200, false)] {
            let size = PassSize { micro_batch_size, max_length: 300, is_padded };
            let passes = size.cut(&lens);
            assert!(passes.iter().all(|pass| size.num_tokens(&lens[pass.clone()]) <= size.most_tokens(97, 300)));
            assert_eq!(passes.into_iter().flatten().collect::<Vec<_>>(), (0..97).collect::<Vec<_>>());
        }
    }
}
