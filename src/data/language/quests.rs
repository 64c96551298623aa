//! Quests: copying. A route, then the same route again or reversed.

use super::chance::Chance;
use super::pen::{Pen, Stopped};
use super::vocabulary::{TOWNS, Word};

const MIN_STOPS: usize = 3;
const MAX_STOPS: usize = 7;
/// Two routes of the longest kind, their first words and the final mark.
const LONGEST_ROUND: usize = 2 * MAX_STOPS + 3;

/// Lists of towns to copy, forwards or backwards.
pub(super) struct Quests {
    /// `back` and `again`, which end the route, then the towns.
    stops: Vec<(u32, u32)>,
}

impl Quests {
    pub(super) fn new(chance: &mut Chance) -> Self {
        let towns = chance.zipf(TOWNS);
        let total: u32 = towns.iter().map(|&(_, weight)| weight).sum();
        let mut stops = vec![(Word::Back.id(), total / 8), (Word::Again.id(), total / 8)];
        stops.extend(towns);
        Self { stops }
    }

    /// Emits journeys until the document ends.
    pub(super) fn write(&self, pen: &mut impl Pen) -> Result<(), Stopped> {
        loop {
            pen.say(&[Word::Out])?;
            let mut options = self.stops.clone();
            let mut way = Vec::with_capacity(MAX_STOPS);
            let word = loop {
                let offered = match way.len() {
                    ..MIN_STOPS => 2..options.len(),
                    MAX_STOPS => 0..2,
                    _ => 0..options.len(),
                };
                match pen.choose(&options[offered.clone()])? + offered.start {
                    0 => break Word::Back,
                    1 => break Word::Again,
                    town => {
                        way.push(options[town].0);
                        options[town].1 = 0;
                    }
                }
            };
            if word == Word::Back {
                way.reverse();
            }
            way.into_iter().try_for_each(|town| pen.put(town))?;
            if !pen.goes_on(LONGEST_ROUND)? {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::data::language::tests::sentences;

    #[test]
    fn a_route_is_repeated_or_reversed() {
        let mut counts = [0, 0];
        for journey in sentences("quests").into_iter().flatten() {
            assert_eq!(journey[0], "out");
            let turn = journey.iter().position(|word| word == "back" || word == "again").expect("every journey turns");
            let mut way = journey[1..turn].to_vec();
            if journey[turn] == "back" {
                way.reverse();
            }
            assert_eq!(journey[turn + 1..], way);
            counts[usize::from(journey[turn] == "back")] += 1;
        }
        assert!(counts.iter().all(|&count| count > 1_000), "{counts:?}");
    }
}
