//! The examples in prompts.

use super::error::EvalError;
use super::tasks::{Chosen, Doc, Sampler};
use crate::python::Random;

/// Draws the examples of one item after the other.
pub struct FewShotSampler<'a> {
    task: String,
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
        let sampler = Self { task: chosen.task.name.clone(), pool, count, sampler, random: Random::new(seed) };
        match count > 0 && pool.len() < count + spare {
            true => Err(sampler.too_few(count + spare, pool.len())),
            false => Ok(sampler),
        }
    }

    /// The examples for the next item.
    ///
    /// # Errors
    /// [`EvalError::TooFewExamples`], if too many rows of the pool equal the item.
    pub fn draw(&mut self, item: &Doc) -> Result<Vec<&'a Doc>, EvalError> {
        match self.sampler {
            _ if self.count == 0 => Ok(Vec::new()),
            Sampler::First => Ok(self.pool.iter().take(self.count).collect()),
            Sampler::Random { leaves_out_item: false } => Ok(self.sample(self.pool.iter().collect(), self.count)),
            Sampler::Random { leaves_out_item: true } => {
                let is_other = |doc: &&Doc| doc.fields != item.fields;
                let drawn = self.sample(self.pool.iter().collect(), self.count + 1);
                let kept: Vec<&Doc> = drawn.into_iter().filter(is_other).take(self.count).collect();
                if kept.len() == self.count {
                    return Ok(kept);
                }
                // The item is in the pool several times.
                let others: Vec<&Doc> = self.pool.iter().filter(is_other).collect();
                match others.len() < self.count {
                    true => Err(self.too_few(self.count, others.len())),
                    false => Ok(self.sample(others, self.count)),
                }
            }
        }
    }

    fn too_few(&self, needed: usize, available: usize) -> EvalError {
        EvalError::TooFewExamples { task: self.task.clone(), num_fewshot: self.count, needed, available }
    }

    fn sample(&mut self, pool: Vec<&'a Doc>, count: usize) -> Vec<&'a Doc> {
        self.random.sample(pool.len(), count).into_iter().map(|index| pool[index]).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::eval::tasks::{Key, Question, Selection};

    fn doc(number: usize) -> Doc {
        let fields = json!({"number": number}).as_object().unwrap().clone();
        let question = Question::Choices { text: String::new(), choices: vec!["a".to_owned()], key: Key::One(0) };
        Doc { fields, question }
    }

    /// Two examples of HellaSwag, whose items may be among the examples.
    fn drawn(pool: &[Doc], item: &Doc) -> Result<usize, EvalError> {
        let chosen = Selection::new(&["hellaswag".to_owned()], Some(2)).unwrap().tasks.remove(0);
        let leaves_out_item = chosen.task.few_shots.sampler == Sampler::Random { leaves_out_item: true };
        assert!(leaves_out_item, "the case that this is about");
        Ok(FewShotSampler::new(&chosen, pool, 1234)?.draw(item)?.len())
    }

    #[test]
    fn a_prompt_never_has_fewer_examples_than_asked_for() {
        let pool = [0, 0, 0, 1, 2].map(doc);
        assert_eq!(drawn(&pool, &doc(0)).unwrap(), 2, "without the item");
        assert_eq!(drawn(&pool, &doc(9)).unwrap(), 2);
        let message = drawn(&pool[..4], &doc(0)).unwrap_err().to_string();
        assert_eq!(message, "hellaswag: 2 rows are drawn for 2 examples, but there are only 1");
        assert!(drawn(&pool[..2], &doc(9)).is_err(), "one more is drawn, in case that it is the item");
    }
}
