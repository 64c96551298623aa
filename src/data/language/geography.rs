//! Geography: facts about lands, some of them named by their position relative to others.

use super::chance::Chance;
use super::pen::{Pen, Stopped};
use super::vocabulary::{BEASTS, COLOURS, GOODS, Kind, LANDS, PEOPLE, RIVERS, TOWNS, Word};

/// Longest sentence: `the R of the land north of the land north of L is A .`
const LONGEST_ROUND: usize = 15;
/// Largest number of `the land north of` in one phrase.
const MAX_HOPS: usize = 2;

/// Six facts about every land, and the land north of it.
///
/// `the capital of the land north of Zania is Corby` composes two or three facts; `its river is Narel` refers to the land
/// of the previous sentence; `Corby is the capital of …` inverts a fact.
pub(super) struct Geography {
    relations: [(Word, Kind, Vec<usize>); 6],
    north: Vec<usize>,
    land_of_capital: Vec<usize>,
    /// `its`, `the`, `north`, then the towns, weighted as the lands whose capitals they are.
    starts: Vec<(u32, u32)>,
    /// `the`, then the lands.
    phrases: Vec<(u32, u32)>,
}

impl Geography {
    pub(super) fn new(chance: &mut Chance) -> Self {
        let kinds = [
            (Word::Capital, TOWNS),
            (Word::River, RIVERS),
            (Word::Crop, GOODS),
            (Word::Ruler, PEOPLE),
            (Word::Flag, COLOURS),
            (Word::Beast, BEASTS),
        ];
        let relations = kinds.map(|(word, kind)| (word, kind, chance.assignment(LANDS.len(), kind.len())));
        let mut land_of_capital = vec![0; TOWNS.len()];
        for (land, &capital) in relations[0].2.iter().enumerate() {
            land_of_capital[capital] = land;
        }
        let lands = chance.zipf(LANDS);
        let total: u32 = lands.iter().map(|&(_, weight)| weight).sum();
        let mut starts = vec![(Word::Its.id(), 3 * total), (Word::The.id(), 4 * total), (Word::North.id(), total)];
        starts.extend(TOWNS.ids().zip(&land_of_capital).map(|(town, &land)| (town, lands[land].1)));
        let mut phrases = vec![(Word::The.id(), total / 2)];
        phrases.extend(lands);
        Self { relations, north: chance.cycle(LANDS.len()), land_of_capital, starts, phrases }
    }

    /// Emits sentences until the document ends.
    pub(super) fn write(&self, pen: &mut impl Pen) -> Result<(), Stopped> {
        let mut subject = None;
        loop {
            let options = if subject.is_some() { &self.starts } else { &self.starts[1..] };
            let land = match (pen.choose(options)? + self.starts.len() - options.len(), subject) {
                (0, Some(land)) => self.relation(pen, |_| Ok(land))?,
                (0 | 1, _) => self.relation(pen, |pen| {
                    pen.say(&[Word::Of])?;
                    self.phrase(pen, MAX_HOPS)
                })?,
                (2, _) => {
                    pen.say(&[Word::Of])?;
                    let land = self.north[self.phrase(pen, 0)?];
                    pen.say(&[Word::Lies])?;
                    pen.put(LANDS.id(land))?;
                    land
                }
                (town, _) => {
                    let land = self.land_of_capital[town - 3];
                    pen.say(&[Word::Is, Word::The, Word::Capital, Word::Of])?;
                    pen.put(LANDS.id(land))?;
                    land
                }
            };
            subject = Some(land);
            if !pen.goes_on(LONGEST_ROUND)? {
                return Ok(());
            }
        }
    }

    /// Emits `capital … is Corby`, with `name` emitting the land in between; returns the land.
    fn relation<P: Pen>(
        &self,
        pen: &mut P,
        name: impl FnOnce(&mut P) -> Result<usize, Stopped>,
    ) -> Result<usize, Stopped> {
        let (_, kind, of) = &self.relations[pen.choose(&self.relations.each_ref().map(|(word, ..)| (word.id(), 1)))?];
        let land = name(pen)?;
        pen.say(&[Word::Is])?;
        pen.put(kind.id(of[land]))?;
        Ok(land)
    }

    /// Emits a land, directly or as `the land north of …`, and returns it.
    fn phrase(&self, pen: &mut impl Pen, max_hops: usize) -> Result<usize, Stopped> {
        let options = if max_hops > 0 { &self.phrases } else { &self.phrases[1..] };
        match pen.choose(options)? + self.phrases.len() - options.len() {
            0 => {
                pen.say(&[Word::Land, Word::North, Word::Of])?;
                Ok(self.north[self.phrase(pen, max_hops - 1)?])
            }
            land => Ok(land - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use crate::data::language::tests::{agrees, sentences};

    #[test]
    fn all_sentences_about_a_land_agree() {
        let documents = sentences("geography");
        let mut facts: HashMap<(String, &str), &str> = HashMap::new();
        let mut record = |relation: &str, land, answer| agrees(&mut facts, (relation.to_owned(), land), answer);
        for document in &documents {
            let mut subject = None;
            for sentence in document {
                subject = match sentence.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                    ["north", "of", land, "lies", north] => {
                        assert!(record("north", land, north), "{sentence:?}");
                        Some(north)
                    }
                    [town, "is", "the", "capital", "of", land] => {
                        assert!(record("capital", land, town), "{sentence:?}");
                        Some(land)
                    }
                    ["the", relation, "of", land, "is", answer] => {
                        assert!(record(relation, land, answer), "{sentence:?}");
                        Some(land)
                    }
                    ["its", relation, "is", answer] => {
                        assert!(subject.is_none_or(|land| record(relation, land, answer)), "{sentence:?}");
                        subject
                    }
                    _ => None,
                };
            }
        }
        let mut checked = 0;
        for sentence in documents.iter().flatten().filter(|sentence| sentence.contains(&"land".to_owned())) {
            let (named, answer) = (&sentence[sentence.len() - 3], &sentence[sentence.len() - 1]);
            let hops = sentence.iter().filter(|&word| word == "land").count();
            let step = |land| facts.get(&("north".to_owned(), land)).copied();
            let land = (0..hops).try_fold(named.as_str(), |land, _| step(land));
            let Some(found) = land.and_then(|land| facts.get(&(sentence[1].clone(), land))) else { continue };
            assert_eq!(found, answer, "{sentence:?}");
            checked += 1;
        }
        assert!(checked > 500, "{checked}");
    }
}
