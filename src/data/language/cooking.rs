//! Cooking: recipes to recall and amounts to add up.

use super::chance::Chance;
use super::pen::{Pen, Stopped};
use super::vocabulary::{DISHES, GOODS, NUMBERS, PEOPLE, STEPS, Word};

const NUM_STEPS: usize = 4;
const MAX_AMOUNT: usize = 5;
/// `P makes D :`, the steps, `total N .`
const LONGEST_ROUND: usize = 4 + 3 * NUM_STEPS + 3;

/// The steps and ingredients of every dish; the amounts vary.
pub(super) struct Cooking {
    /// `recipes[dish]`: indices of steps and goods, in order.
    recipes: Vec<[(usize, usize); NUM_STEPS]>,
    people: Vec<(u32, u32)>,
    dishes: Vec<(u32, u32)>,
}

impl Cooking {
    pub(super) fn new(chance: &mut Chance) -> Self {
        let mut recipe = || {
            let (steps, goods) =
                (chance.assignment(STEPS.len(), STEPS.len()), chance.assignment(GOODS.len(), GOODS.len()));
            std::array::from_fn(|index| (steps[index], goods[index]))
        };
        let recipes = (0..DISHES.len()).map(|_| recipe()).collect();
        Self { recipes, people: chance.zipf(PEOPLE), dishes: chance.zipf(DISHES) }
    }

    /// Emits dishes until the document ends.
    pub(super) fn write(&self, pen: &mut impl Pen) -> Result<(), Stopped> {
        let amounts: [(u32, u32); MAX_AMOUNT] = std::array::from_fn(|index| (NUMBERS.id(index + 1), 1));
        loop {
            pen.choose(&self.people)?;
            pen.say(&[Word::Makes])?;
            let dish = pen.choose(&self.dishes)?;
            pen.say(&[Word::Colon])?;
            let mut total = 0;
            for (step, good) in self.recipes[dish] {
                pen.put(STEPS.id(step))?;
                total += pen.choose(&amounts)? + 1;
                pen.put(GOODS.id(good))?;
            }
            pen.say(&[Word::Total])?;
            pen.put(NUMBERS.id(total))?;
            if !pen.goes_on(LONGEST_ROUND)? {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::data::language::tests::{agrees, sentences};
    use crate::data::language::vocabulary;

    #[test]
    fn a_dish_has_one_recipe_and_the_amounts_add_up() {
        let words = vocabulary::words();
        let number = |word: &str| NUMBERS.ids().position(|id| words[id as usize] == word).expect("a number");
        let mut recipes = HashMap::new();
        for sentence in sentences("cooking").into_iter().flatten() {
            let steps = &sentence[4..4 + 3 * NUM_STEPS];
            let recipe: Vec<_> = steps.chunks(3).map(|step| (step[0].clone(), step[2].clone())).collect();
            assert!(agrees(&mut recipes, sentence[2].clone(), recipe), "{sentence:?}");
            let amounts: usize = steps.chunks(3).map(|step| number(&step[1])).sum();
            assert_eq!(number(&sentence[sentence.len() - 1]), amounts);
        }
        assert_eq!(recipes.len(), DISHES.len());
    }
}
