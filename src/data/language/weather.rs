//! Weather: a Markov chain over the days of a week, which depends on town and season.

use super::chance::Chance;
use super::pen::{Pen, Stopped};
use super::vocabulary::{DAYS, SEASONS, SKIES, TOWNS, Word};

const NUM_CLIMATES: usize = 4;
/// Transition weights, likeliest first; each law has its own order.
const WEIGHTS: [u32; SKIES.len()] = [40, 16, 6, 2, 1, 1, 1, 1];
/// `in S at T :`, then a day and its sky, seven times, and the final mark.
const LONGEST_ROUND: usize = 5 + 2 * DAYS.len() + 1;

type Offer = [(u32, u32); SKIES.len()];

/// The transition law of every climate and season, and the climate of every town.
pub(super) struct Weather {
    climates: Vec<usize>,
    /// `laws[climate][season][sky of the previous day]`; the last row is for Mondays.
    laws: Vec<Vec<Vec<Offer>>>,
    towns: Vec<(u32, u32)>,
}

impl Weather {
    pub(super) fn new(chance: &mut Chance) -> Self {
        let mut offer = || {
            let mut weights = WEIGHTS;
            chance.shuffle(&mut weights);
            std::array::from_fn(|sky| (SKIES.id(sky), weights[sky]))
        };
        let mut law = || (0..=SKIES.len()).map(|_| offer()).collect();
        let mut seasons = || (0..SEASONS.len()).map(|_| law()).collect();
        let laws = (0..NUM_CLIMATES).map(|_| seasons()).collect();
        Self { climates: chance.assignment(TOWNS.len(), NUM_CLIMATES), laws, towns: chance.zipf(TOWNS) }
    }

    /// Emits weeks until the document ends.
    pub(super) fn write(&self, pen: &mut impl Pen) -> Result<(), Stopped> {
        let seasons: [(u32, u32); SEASONS.len()] = std::array::from_fn(|season| (SEASONS.id(season), 1));
        loop {
            pen.say(&[Word::In])?;
            let season = pen.choose(&seasons)?;
            pen.say(&[Word::At])?;
            let law = &self.laws[self.climates[pen.choose(&self.towns)?]][season];
            pen.say(&[Word::Colon])?;
            let mut sky = SKIES.len();
            for day in DAYS.ids() {
                pen.put(day)?;
                sky = pen.choose(&law[sky])?;
            }
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
    use crate::data::language::tests::agrees;
    use crate::data::language::{Language, Split};

    #[test]
    fn tomorrow_depends_on_town_season_and_today_alone() {
        let language = Language::builtin();
        let mut laws = HashMap::new();
        let is_sky = |id: u32| SKIES.ids().any(|sky| sky == id);
        let mut seen_again = 0;
        for document in (0..4_000).map(|index| language.document(Split::Train, index)) {
            if language.topics()[document.topic.unwrap()] != "weather" {
                continue;
            }
            for week in 0..document.ids.len() / LONGEST_ROUND {
                let first = 2 + week * LONGEST_ROUND;
                let (season, town) = (document.ids[first + 1], document.ids[first + 3]);
                for day in 1..DAYS.len() {
                    let end = first + 5 + 2 * day + 1;
                    let today = document.ids[end - 2];
                    assert!(is_sky(today) && is_sky(document.ids[end]));
                    let next = language.next_distribution(&document.ids[..end]);
                    seen_again += usize::from(laws.contains_key(&(season, town, today)));
                    assert!(agrees(&mut laws, (season, town, today), next));
                }
            }
        }
        assert!(seen_again > 1_000, "{seen_again}");
        let distinct = laws.values().fold(Vec::new(), |mut distinct: Vec<&Vec<(u32, f64)>>, law| {
            if !distinct.contains(&law) {
                distinct.push(law);
            }
            distinct
        });
        assert!((100..=NUM_CLIMATES * SEASONS.len() * SKIES.len()).contains(&distinct.len()), "{}", distinct.len());
    }
}
