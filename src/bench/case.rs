//! Tests, and the cross product of lists that gives them.

use super::error::BenchError;
use crate::config::DecoderConfig;

/// Tests beyond which a grid is taken for a typing error.
const MAX_CASES: u128 = 65_536;

/// What a test computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// `n_prompt` tokens in one pass, then `n_gen` one at a time, after `n_depth` tokens that are in the cache before the
    /// clock starts.
    Inference {
        /// Tokens of the prompt; may be 0.
        n_prompt: usize,
        /// Tokens decoded; may be 0.
        n_gen: usize,
        /// Tokens in the cache before.
        n_depth: usize,
    },
    /// One update: forward, loss, backward, clipping, optimizer.
    Train {
        /// Tokens per sequence.
        n_train: usize,
    },
}

/// A test, the number of sequences and the number of threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TestCase {
    /// What is computed.
    pub test: Test,
    /// Sequences at once.
    pub batch_size: usize,
    /// Threads that compute.
    pub n_threads: usize,
}

impl TestCase {
    /// Tokens that one repetition processes, of all sequences, without those in the cache before.
    pub fn num_tokens(&self) -> usize {
        self.batch_size
            * match self.test {
                Test::Inference { n_prompt, n_gen, .. } => n_prompt + n_gen,
                Test::Train { n_train } => n_train,
            }
    }

    /// Positions that one sequence takes.
    pub fn num_positions(&self) -> usize {
        match self.test {
            Test::Inference { n_prompt, n_gen, n_depth } => n_prompt.saturating_add(n_gen).saturating_add(n_depth),
            Test::Train { n_train } => n_train,
        }
    }

    /// Checks the test against the positions of a model.
    ///
    /// # Errors
    /// [`BenchError::TooLong`].
    pub fn fits_context(&self, model: &str, config: &DecoderConfig) -> Result<(), BenchError> {
        let (num_positions, max_position_embeddings) = (self.num_positions(), config.max_position_embeddings);
        match num_positions > max_position_embeddings {
            true => Err(BenchError::TooLong {
                test: self.name(),
                model: model.to_owned(),
                num_positions,
                max_position_embeddings,
            }),
            false => Ok(()),
        }
    }

    /// The name that llama-bench gives it: `pp512`, `tg128`, `pp512+tg128`, with ` @ d4096` at a depth; and `train4x256`.
    pub fn name(&self) -> String {
        match self.test {
            Test::Inference { n_prompt, n_gen, n_depth } => {
                let name = match (n_prompt, n_gen) {
                    (pp, 0) => format!("pp{pp}"),
                    (0, tg) => format!("tg{tg}"),
                    (pp, tg) => format!("pp{pp}+tg{tg}"),
                };
                if n_depth == 0 { name } else { format!("{name} @ d{n_depth}") }
            }
            Test::Train { n_train } => format!("train{}x{n_train}", self.batch_size),
        }
    }
}

/// Lists of sizes whose cross product is measured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grid {
    /// Tokens of a prompt; 0 is no test.
    pub n_prompt: Vec<usize>,
    /// Tokens decoded; 0 is no test.
    pub n_gen: Vec<usize>,
    /// Prompts, each followed by decoding.
    pub n_pg: Vec<(usize, usize)>,
    /// Tokens in the cache before.
    pub n_depth: Vec<usize>,
    /// Sequences at once.
    pub batch_size: Vec<usize>,
    /// Threads.
    pub n_threads: Vec<usize>,
    /// Sequences and tokens per sequence of training steps; these are crossed with the threads alone.
    pub train: Vec<(usize, usize)>,
}

impl Grid {
    /// The tests in the order of llama-bench, training last.
    ///
    /// # Errors
    /// [`BenchError::NothingToMeasure`]; [`BenchError::TooManyTests`].
    pub fn cases(&self) -> Result<Vec<TestCase>, BenchError> {
        let prompts = self.n_prompt.iter().map(|&n_prompt| (n_prompt, 0));
        let gens = self.n_gen.iter().map(|&n_gen| (0, n_gen));
        let all = prompts.chain(gens).chain(self.n_pg.iter().copied());
        let lengths: Vec<_> = all.filter(|len| *len != (0, 0)).collect();
        let product = |lists: &[usize]| lists.iter().map(|&len| len as u128).product::<u128>();
        let [sequences, threads, depths] = [&self.batch_size, &self.n_threads, &self.n_depth].map(Vec::len);
        let inference = product(&[sequences, threads, depths, lengths.len()]);
        match inference + product(&[threads, self.train.len()]) {
            0 => return Err(BenchError::NothingToMeasure),
            found if found > MAX_CASES => return Err(BenchError::TooManyTests { found, most: MAX_CASES }),
            _ => {}
        }
        let mut cases = Vec::new();
        for &batch_size in &self.batch_size {
            for &n_threads in &self.n_threads {
                for &n_depth in &self.n_depth {
                    cases.extend(lengths.iter().map(|&(n_prompt, n_gen)| TestCase {
                        test: Test::Inference { n_prompt, n_gen, n_depth },
                        batch_size,
                        n_threads,
                    }));
                }
            }
        }
        for &n_threads in &self.n_threads {
            cases.extend(self.train.iter().map(|&(batch_size, n_train)| TestCase {
                test: Test::Train { n_train },
                batch_size,
                n_threads,
            }));
        }
        Ok(cases)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_have_the_names_of_llama_bench() {
        let name = |test| TestCase { test, batch_size: 4, n_threads: 1 }.name();
        let inference = |n_prompt, n_gen, n_depth| name(Test::Inference { n_prompt, n_gen, n_depth });
        assert_eq!(inference(512, 0, 0), "pp512");
        assert_eq!(inference(0, 128, 4096), "tg128 @ d4096");
        assert_eq!(inference(512, 128, 0), "pp512+tg128");
        assert_eq!(name(Test::Train { n_train: 256 }), "train4x256");
    }

    #[test]
    fn a_grid_of_too_many_tests_is_refused_before_it_is_made() {
        let many: Vec<usize> = (1..=4096).collect();
        let grid = Grid {
            n_prompt: many.clone(),
            n_depth: many.clone(),
            batch_size: many.clone(),
            n_threads: many,
            ..Grid::default()
        };
        assert!(matches!(grid.cases(), Err(BenchError::TooManyTests { found, .. }) if found == 4096u128.pow(4)));
        assert!(matches!(Grid::default().cases(), Err(BenchError::NothingToMeasure)));
    }
}
