//! What is profiled: tests of inference and of training, as passes.

use super::convention::FlopConvention;
use super::flops::product;
use super::throughput::InferenceTest;

/// A test whose cost is counted module by module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProfileTest {
    /// Prefill, decoding, or both.
    Inference(InferenceTest),
    /// Forward and backward of one update.
    Training {
        /// Sequences of the pass.
        batch_size: usize,
        /// Tokens of each.
        seq_length: usize,
    },
}

impl ProfileTest {
    /// Tokens that one repetition processes.
    pub fn num_tokens(self) -> usize {
        match self {
            Self::Inference(test) => test.batch_size * (test.n_prompt + test.n_gen),
            Self::Training { batch_size, seq_length } => batch_size * seq_length,
        }
    }

    /// Its passes: a prompt in one, then one a decoded token; or the one of training.
    pub(super) fn passes(self) -> Vec<Pass> {
        let pass = |batch_size: usize, past: usize, new: usize| Pass {
            num_sequences: batch_size as u64,
            past: past as u64,
            new: new as u64,
            num_logits: batch_size as u64,
            has_backward: false,
        };
        match self {
            Self::Inference(InferenceTest { n_prompt, n_gen, n_depth, batch_size }) => {
                let prompt = (n_prompt > 0).then(|| pass(batch_size, n_depth, n_prompt));
                prompt
                    .into_iter()
                    .chain((0..n_gen).map(|step| pass(batch_size, n_depth + n_prompt + step, 1)))
                    .collect()
            }
            Self::Training { batch_size, seq_length } => {
                let pass = pass(batch_size, 0, seq_length);
                vec![Pass { num_logits: pass.tokens(), has_backward: true, ..pass }]
            }
        }
    }
}

impl From<InferenceTest> for ProfileTest {
    fn from(test: InferenceTest) -> Self {
        Self::Inference(test)
    }
}

/// One forward pass, of training with the backward pass after it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass {
    pub num_sequences: u64,
    /// Tokens of each sequence that are in the cache.
    past: u64,
    /// Tokens of each sequence that are computed.
    new: u64,
    /// Positions whose logits are computed.
    pub num_logits: u64,
    pub has_backward: bool,
}

impl Pass {
    pub fn tokens(self) -> u64 {
        self.num_sequences * self.new
    }

    /// Pairs of a query and a key that a convention counts.
    pub fn pairs(self, window: u64, convention: FlopConvention) -> u128 {
        let of_sequence = match convention {
            FlopConvention::Causal => {
                (self.past..self.past + self.new).map(|position| u128::from((position + 1).min(window))).sum()
            }
            FlopConvention::Square | FlopConvention::Palm => product([self.new.into(), (self.past + self.new).into()]),
            FlopConvention::SixNd => 0,
        };
        product([self.num_sequences.into(), of_sequence])
    }

    /// Positions of the cache that some query sees.
    pub fn cached(self, window: u64) -> u64 {
        self.num_sequences * (self.past.min(window.saturating_sub(1)) + self.new)
    }
}
