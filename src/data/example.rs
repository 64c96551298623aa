//! Training examples as token ids.

/// A sequence of token ids, and which of them are to be predicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Whether the loss counts the prediction of each id from those before it.
    pub trained: Vec<bool>,
}

/// A prompt and two completions of it, of which the first is preferred.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreferencePair {
    /// Ids before both completions.
    pub prompt: Vec<u32>,
    /// The better completion.
    pub chosen: Vec<u32>,
    /// The worse completion.
    pub rejected: Vec<u32>,
}

/// Which end of a sequence is kept when it is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Truncation {
    /// The end is cut off.
    #[default]
    KeepStart,
    /// The start is cut off.
    KeepEnd,
}

impl Example {
    /// An example all of which is trained.
    pub fn trained_whole(ids: Vec<u32>) -> Self {
        Self { trained: vec![true; ids.len()], ids }
    }

    /// Cuts the example to at most `max_length` ids.
    pub fn truncate(&mut self, max_length: usize, truncation: Truncation) {
        let excess = self.ids.len().saturating_sub(max_length);
        match truncation {
            Truncation::KeepStart => {
                self.ids.truncate(max_length);
                self.trained.truncate(max_length);
            }
            Truncation::KeepEnd => {
                self.ids.drain(..excess);
                self.trained.drain(..excess);
            }
        }
    }

    /// Ids that the model reads: all but the last, which is a target only.
    pub fn inputs(&self) -> &[u32] {
        &self.ids[..self.ids.len().saturating_sub(1)]
    }

    /// Ids that the loss counts. The first id of a sequence has none before it, and is never predicted.
    pub fn num_trained(&self) -> usize {
        self.trained.iter().skip(1).filter(|trained| **trained).count()
    }
}

impl PreferencePair {
    /// The prompt with the chosen and with the rejected completion; the completions are trained.
    pub fn examples(&self) -> [Example; 2] {
        [&self.chosen, &self.rejected].map(|completion| Example {
            ids: [self.prompt.as_slice(), completion].concat(),
            trained: [vec![false; self.prompt.len()], vec![true; completion.len()]].concat(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(ids: &[u32], trained: &[u8]) -> Example {
        Example { ids: ids.to_vec(), trained: trained.iter().map(|flag| *flag == 1).collect() }
    }

    #[test]
    fn a_long_example_keeps_its_start_or_its_end() {
        let cut = |max_length, truncation| {
            let mut long = example(&[1, 2, 3, 4], &[0, 0, 1, 1]);
            long.truncate(max_length, truncation);
            long
        };
        assert_eq!(cut(3, Truncation::KeepStart), example(&[1, 2, 3], &[0, 0, 1]));
        assert_eq!(cut(3, Truncation::KeepEnd), example(&[2, 3, 4], &[0, 1, 1]));
        assert_eq!(cut(9, Truncation::KeepEnd), example(&[1, 2, 3, 4], &[0, 0, 1, 1]));
        assert_eq!(cut(0, Truncation::KeepEnd), example(&[], &[]));
        assert_eq!(cut(2, Truncation::KeepStart).num_trained(), 0);
    }

    #[test]
    fn the_first_id_is_never_a_target() {
        assert_eq!(Example::trained_whole(vec![1, 2, 3]).num_trained(), 2);
        assert_eq!(Example::trained_whole(vec![1]).num_trained(), 0);
    }

    #[test]
    fn a_pair_gives_two_examples_with_trained_completions() {
        let pair = PreferencePair { prompt: vec![1, 2], chosen: vec![3], rejected: vec![4, 5] };
        assert_eq!(pair.examples(), [example(&[1, 2, 3], &[0, 0, 1]), example(&[1, 2, 4, 5], &[0, 0, 1, 1])]);
    }
}
