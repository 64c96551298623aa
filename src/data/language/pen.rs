//! One procedure per topic that both draws documents and scores them.
//!
//! A topic is a procedure that asks a [`Pen`] for one token after another. With a [`Writer`] it draws a document; with a
//! [`Reader`] it follows a given one and computes the probability of each token. Every choice is between *different*
//! tokens and emits exactly one, so a prefix determines all choices before it: there are no latent variables, and the
//! weights *are* the conditional distribution of the next token.

use super::chance::Chance;
use super::vocabulary::Word;

/// Shortest and longest document, in tokens.
pub(super) const LENGTH: std::ops::RangeInclusive<usize> = 40..=120;

/// The reader reached the end of its text, or a token that was not an option.
#[derive(Debug)]
pub(super) struct Stopped;

/// Emits one token after another.
pub(super) trait Pen {
    /// Emits one of several different tokens and returns its index among the options, which are `(token id, weight)`.
    /// Weights need not sum to 1; 0 means impossible.
    fn choose(&mut self, options: &[(u32, u32)]) -> Result<usize, Stopped>;

    /// Number of tokens emitted so far.
    fn len(&self) -> usize;

    /// Emits the only possible token.
    fn put(&mut self, id: u32) -> Result<(), Stopped> {
        self.choose(&[(id, 1)]).map(drop)
    }

    /// Emits words that are the only possible ones.
    fn say(&mut self, words: &[Word]) -> Result<(), Stopped> {
        words.iter().try_for_each(|word| self.put(word.id()))
    }

    /// Emits one of several words and returns it.
    fn pick<const N: usize>(&mut self, options: [(Word, u32); N]) -> Result<Word, Stopped> {
        let offered = options.map(|(word, weight)| (word.id(), weight));
        self.choose(&offered).map(|chosen| options[chosen].0)
    }

    /// Emits `.`, or `<eos>` at the end of the document, and returns whether the document goes on: always while it is too
    /// short, never if another round of at most `longest_round` tokens could make it too long.
    fn goes_on(&mut self, longest_round: usize) -> Result<bool, Stopped> {
        let len = self.len() + 1;
        let may_end = u32::from(len >= *LENGTH.start());
        let may_go_on = u32::from(len + longest_round <= *LENGTH.end());
        Ok(self.pick([(Word::FullStop, 3 * may_go_on), (Word::Eos, may_end)])? == Word::FullStop)
    }
}

/// Draws a document.
pub(super) struct Writer<'a> {
    chance: &'a mut Chance,
    pub(super) ids: Vec<u32>,
    pub(super) logprobs: Vec<f64>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(chance: &'a mut Chance) -> Self {
        let capacity = *LENGTH.end();
        Self { chance, ids: Vec::with_capacity(capacity), logprobs: Vec::with_capacity(capacity) }
    }
}

impl Pen for Writer<'_> {
    fn choose(&mut self, options: &[(u32, u32)]) -> Result<usize, Stopped> {
        let total = options.iter().map(|&(_, weight)| weight).sum();
        let mut left = if let [_] = options { 0 } else { self.chance.below(total) };
        let mut chosen = 0;
        while left >= options[chosen].1 {
            left -= options[chosen].1;
            chosen += 1;
        }
        let (id, weight) = options[chosen];
        self.ids.push(id);
        self.logprobs.push(logprob(weight, total));
        Ok(chosen)
    }

    fn len(&self) -> usize {
        self.ids.len()
    }
}

/// Follows a given text.
pub(super) struct Reader<'a> {
    ids: &'a [u32],
    pub(super) logprobs: Vec<f64>,
    /// The options at the end of the text, with their probabilities; empty before.
    pub(super) next: Vec<(u32, f64)>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(ids: &'a [u32]) -> Self {
        Self { ids, logprobs: Vec::with_capacity(ids.len()), next: Vec::new() }
    }
}

impl Pen for Reader<'_> {
    fn choose(&mut self, options: &[(u32, u32)]) -> Result<usize, Stopped> {
        let total: u32 = options.iter().map(|&(_, weight)| weight).sum();
        let possible = |&(_, weight): &(u32, u32)| weight > 0;
        let Some(&given) = self.ids.get(self.len()) else {
            let probability = |&(id, weight): &(u32, u32)| (id, f64::from(weight) / f64::from(total));
            self.next = options.iter().filter(|option| possible(option)).map(probability).collect();
            return Err(Stopped);
        };
        let chosen = options.iter().position(|option| option.0 == given && possible(option)).ok_or(Stopped)?;
        self.logprobs.push(logprob(options[chosen].1, total));
        Ok(chosen)
    }

    fn len(&self) -> usize {
        self.logprobs.len()
    }
}

fn logprob(weight: u32, total: u32) -> f64 {
    if weight == total { 0.0 } else { (f64::from(weight) / f64::from(total)).ln() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: [(u32, u32); 4] = [(7, 1), (3, 0), (5, 2), (9, 1)];

    #[test]
    fn a_writer_draws_options_in_proportion_to_their_weights() {
        let mut chance = Chance::new(0, 0, 0);
        let mut pen = Writer::new(&mut chance);
        for _ in 0..40_000 {
            pen.choose(&OPTIONS).unwrap();
        }
        for (id, weight) in OPTIONS {
            let count = pen.ids.iter().filter(|&&drawn| drawn == id).count() as f64;
            let p = f64::from(weight) / 4.0;
            assert!((count - 40_000.0 * p).abs() <= 4.0 * (40_000.0 * p * (1.0 - p)).sqrt(), "{id}: {count}");
        }
    }

    #[test]
    fn a_reader_computes_probabilities_of_its_text_and_of_what_follows() {
        let mut pen = Reader::new(&[5]);
        assert_eq!(pen.choose(&OPTIONS).unwrap(), 2);
        assert_eq!(pen.logprobs, [0.5_f64.ln()]);
        assert!(pen.choose(&OPTIONS).is_err());
        assert_eq!(pen.next, [(7, 0.25), (5, 0.5), (9, 0.25)]);
    }

    #[test]
    fn a_reader_stops_at_an_impossible_token() {
        for impossible in [3, 4] {
            let ids = [impossible];
            let mut pen = Reader::new(&ids);
            assert!(pen.choose(&OPTIONS).is_err());
            assert!(pen.next.is_empty() && pen.logprobs.is_empty());
        }
    }

    #[test]
    fn a_document_goes_on_while_too_short_and_ends_before_too_long() {
        let marks_after = |written: usize| {
            let ids = vec![0; written];
            let mut pen = Reader::new(&ids);
            (0..written).for_each(|_| pen.put(0).unwrap());
            assert!(pen.goes_on(20).is_err());
            pen.next.iter().map(|&(id, _)| id).collect::<Vec<_>>()
        };
        let (stop, eos) = (Word::FullStop.id(), Word::Eos.id());
        assert_eq!(marks_after(38), [stop]);
        assert_eq!(marks_after(39), [stop, eos]);
        assert_eq!(marks_after(99), [stop, eos]);
        assert_eq!(marks_after(100), [eos]);
    }
}
