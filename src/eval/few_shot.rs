//! The examples in prompts.

use super::error::EvalError;
use super::python::Random;
use super::tasks::{Chosen, Doc, Sampler};

/// Draws the examples of one item after the other.
pub struct FewShotSampler<'a> {
    pool: &'a [Doc],
    count: usize,
    sampler: Sampler,
    random: Random,
}

impl<'a> FewShotSampler<'a> {
    /// For a task of a run; `pool` are the items to draw from.
    ///
    /// # Errors
    /// [`EvalError::TooFewExamples`].
    pub fn new(chosen: &Chosen, pool: &'a [Doc], seed: u64) -> Result<Self, EvalError> {
        let (count, sampler) = (chosen.num_fewshot, chosen.task.few_shots.sampler);
        let spare = usize::from(sampler == Sampler::Random { leaves_out_item: true });
        if count > 0 && pool.len() < count + spare {
            let (task, available) = (chosen.task.name.clone(), pool.len());
            return Err(EvalError::TooFewExamples { task, num_fewshot: count, available });
        }
        Ok(Self { pool, count, sampler, random: Random::new(seed) })
    }

    /// The examples for the next item.
    pub fn draw(&mut self, item: &Doc) -> Vec<&'a Doc> {
        match self.sampler {
            _ if self.count == 0 => Vec::new(),
            Sampler::First => self.pool.iter().take(self.count).collect(),
            Sampler::Random { leaves_out_item: false } => self.sample(self.pool.iter().collect(), self.count),
            Sampler::Random { leaves_out_item: true } => {
                let is_other = |doc: &&Doc| doc.fields != item.fields;
                let drawn = self.sample(self.pool.iter().collect(), self.count + 1);
                let kept: Vec<&Doc> = drawn.into_iter().filter(is_other).take(self.count).collect();
                if kept.len() == self.count {
                    return kept;
                }
                // The item is in the pool several times.
                let others: Vec<&Doc> = self.pool.iter().filter(is_other).collect();
                let count = self.count.min(others.len());
                self.sample(others, count)
            }
        }
    }

    fn sample(&mut self, pool: Vec<&'a Doc>, count: usize) -> Vec<&'a Doc> {
        self.random.sample(pool.len(), count).into_iter().map(|index| pool[index]).collect()
    }
}
