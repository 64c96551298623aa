//! Requests and their answers.

use serde::{Deserialize, Serialize};

/// A continuation whose log-likelihood after a context is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// The text before it.
    pub context: &'a str,
    /// The text that is scored.
    pub continuation: &'a str,
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// `Σ ln p(token)` of the continuation, in nats.
    pub log_likelihood: f64,
    /// Whether each token of the continuation is the most likely one.
    pub is_greedy: bool,
}

/// A [`Request`] as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedRequest {
    /// Context and continuation; the last id is only a target.
    ids: Vec<u32>,
    /// Ids at the end that are scored.
    num_scored: usize,
}

impl EncodedRequest {
    /// A request of these ids, of which the last `num_scored` are scored.
    ///
    /// # Panics
    /// If no id is scored, or none comes before the first that is.
    pub fn new(ids: Vec<u32>, num_scored: usize) -> Self {
        assert!((1..ids.len()).contains(&num_scored), "{num_scored} of {} ids scored", ids.len());
        Self { ids, num_scored }
    }

    /// Context and continuation.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The ids that the model reads: all but the last.
    pub fn input(&self) -> &[u32] {
        &self.ids[..self.ids.len() - 1]
    }

    /// Scored ids.
    pub fn num_scored(&self) -> usize {
        self.num_scored
    }

    /// The key by which requests are sorted: the input, the last target, the scored part. Of two inputs, the one that continues the
    /// other comes after it.
    pub(super) fn sort_key(&self) -> (&[u32], u32, usize) {
        (self.input(), self.ids[self.ids.len() - 1], self.num_scored)
    }

    /// Each scored id with the position in [`input`](Self::input) whose state predicts it.
    pub(super) fn targets(&self) -> impl Iterator<Item = (usize, u32)> {
        (self.ids.len() - self.num_scored..self.ids.len()).map(|at| (at - 1, self.ids[at]))
    }

    /// A name of the request for a log: the same only for the same ids and the same scored part.
    pub fn key(&self) -> String {
        let mut hash = blake3::Hasher::new();
        hash.update(&(self.num_scored as u64).to_le_bytes());
        for id in &self.ids {
            hash.update(&id.to_le_bytes());
        }
        hash.finalize().to_hex()[..32].to_owned()
    }
}
