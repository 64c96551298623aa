//! Society: facts about people, composed along chains of acquaintances.

use super::chance::Chance;
use super::pen::{Pen, Stopped};
use super::vocabulary::{BEASTS, COLOURS, CRAFTS, GOODS, PEOPLE, TOWNS, Word};

/// Longest sentence: `the food of the pet of the L of the L of P is A .`
const LONGEST_ROUND: usize = 16;
/// Largest number of acquaintances between the person named and the person meant.
const MAX_HOPS: usize = 2;

const LINKS: [Word; 3] = [Word::Teacher, Word::Friend, Word::Rival];

/// Facts about every person, and about the beasts that they keep.
///
/// `the food of the pet of the rival of Balo is figs` composes three facts.
pub(super) struct Society {
    links: [Vec<usize>; 3],
    craft: Vec<usize>,
    home: Vec<usize>,
    pet: Vec<usize>,
    beast_colour: Vec<usize>,
    beast_food: Vec<usize>,
    /// `the`, then the people.
    phrases: Vec<(u32, u32)>,
    /// `the`, then the beasts.
    beast_phrases: Vec<(u32, u32)>,
}

impl Society {
    pub(super) fn new(chance: &mut Chance) -> Self {
        let mut phrases = vec![(Word::The.id(), 0)];
        phrases.extend(chance.zipf(PEOPLE));
        phrases[0].1 = phrases.iter().map(|&(_, weight)| weight).sum();
        let mut beast_phrases = vec![(Word::The.id(), 0)];
        beast_phrases.extend(chance.zipf(BEASTS));
        beast_phrases[0].1 = beast_phrases.iter().map(|&(_, weight)| weight).sum();
        Self {
            links: LINKS.map(|_| chance.cycle(PEOPLE.len())),
            craft: chance.assignment(PEOPLE.len(), CRAFTS.len()),
            home: chance.assignment(PEOPLE.len(), TOWNS.len()),
            pet: chance.assignment(PEOPLE.len(), BEASTS.len()),
            beast_colour: chance.assignment(BEASTS.len(), COLOURS.len()),
            beast_food: chance.assignment(BEASTS.len(), GOODS.len()),
            phrases,
            beast_phrases,
        }
    }

    /// Emits sentences until the document ends.
    pub(super) fn write(&self, pen: &mut impl Pen) -> Result<(), Stopped> {
        loop {
            match pen.choose(&self.phrases)? {
                0 => self.composed(pen)?,
                person => self.plain(pen, person - 1)?,
            }
            if !pen.goes_on(LONGEST_ROUND)? {
                return Ok(());
            }
        }
    }

    /// After a name: `is a smith`, `lives in Corby` or `keeps a tukpod`.
    fn plain(&self, pen: &mut impl Pen, person: usize) -> Result<(), Stopped> {
        match pen.pick([(Word::Is, 1), (Word::Lives, 1), (Word::Keeps, 1)])? {
            Word::Is => {
                pen.say(&[Word::A])?;
                pen.put(CRAFTS.id(self.craft[person]))
            }
            Word::Lives => {
                pen.say(&[Word::In])?;
                pen.put(TOWNS.id(self.home[person]))
            }
            _ => {
                pen.say(&[Word::A])?;
                pen.put(BEASTS.id(self.pet[person]))
            }
        }
    }

    /// After `the`: `craft of the teacher of Balo is smith` and the like.
    fn composed(&self, pen: &mut impl Pen) -> Result<(), Stopped> {
        let heads = [
            (Word::Teacher, 2),
            (Word::Friend, 2),
            (Word::Rival, 2),
            (Word::Craft, 1),
            (Word::Home, 1),
            (Word::Pet, 1),
            (Word::Colour, 1),
            (Word::Food, 1),
        ];
        let head = pen.pick(heads)?;
        pen.say(&[Word::Of])?;
        let answer = match head {
            Word::Craft => CRAFTS.id(self.craft[self.person(pen, MAX_HOPS)?]),
            Word::Home => TOWNS.id(self.home[self.person(pen, MAX_HOPS)?]),
            Word::Pet => BEASTS.id(self.pet[self.person(pen, MAX_HOPS)?]),
            Word::Colour => COLOURS.id(self.beast_colour[self.beast(pen)?]),
            Word::Food => GOODS.id(self.beast_food[self.beast(pen)?]),
            link => PEOPLE.id(self.follow(link, self.person(pen, MAX_HOPS)?)),
        };
        pen.say(&[Word::Is])?;
        pen.put(answer)
    }

    /// Emits a person, directly or as `the teacher of …`, and returns it.
    fn person(&self, pen: &mut impl Pen, max_hops: usize) -> Result<usize, Stopped> {
        let options = if max_hops > 0 { &self.phrases } else { &self.phrases[1..] };
        match pen.choose(options)? + self.phrases.len() - options.len() {
            0 => {
                let link = pen.pick(LINKS.map(|link| (link, 1)))?;
                pen.say(&[Word::Of])?;
                Ok(self.follow(link, self.person(pen, max_hops - 1)?))
            }
            person => Ok(person - 1),
        }
    }

    /// Emits a beast, directly or as `the pet of …`, and returns it.
    fn beast(&self, pen: &mut impl Pen) -> Result<usize, Stopped> {
        match pen.choose(&self.beast_phrases)? {
            0 => {
                pen.say(&[Word::Pet, Word::Of])?;
                Ok(self.pet[self.person(pen, MAX_HOPS)?])
            }
            beast => Ok(beast - 1),
        }
    }

    fn follow(&self, link: Word, person: usize) -> usize {
        let index = LINKS.iter().position(|&each| each == link).expect("one of the three links");
        self.links[index][person]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use crate::data::language::tests::{agrees, sentences};

    #[test]
    fn a_composed_fact_is_the_composition_of_plain_ones() {
        let documents = sentences("society");
        let sentences =
            || documents.iter().flatten().map(|sentence| sentence.iter().map(String::as_str).collect::<Vec<_>>());
        let mut facts = HashMap::new();
        for sentence in sentences() {
            let (relation, of, answer) = match sentence[..] {
                [person, "is", "a", craft] => ("craft", person, craft),
                [person, "lives", "in", home] => ("home", person, home),
                [person, "keeps", "a", pet] => ("pet", person, pet),
                ["the", relation, "of", of, "is", answer] => (relation, of, answer),
                _ => continue,
            };
            assert!(agrees(&mut facts, (relation, of), answer), "{sentence:?}");
        }
        let mut checked = 0;
        for sentence in sentences().filter(|sentence| sentence.len() > 6) {
            let (named, answer) = (sentence[sentence.len() - 3], sentence[sentence.len() - 1]);
            let mut relations = sentence[1..sentence.len() - 4].iter().step_by(3).rev();
            let found = relations.try_fold(named, |of, &relation| facts.get(&(relation, of)).copied());
            checked += usize::from(found.is_some());
            assert!(found.is_none_or(|found| found == answer), "{sentence:?}: {found:?}");
        }
        assert!(checked > 1_000, "{checked}");
    }
}
