//! Custody: state tracking. Who has what after a series of exchanges?

use super::chance::Chance;
use super::pen::{Pen, Stopped};
use super::vocabulary::{Kind, PEOPLE, THINGS, Word};

/// Number of people and of things.
const NUM: usize = 5;
/// Longest sentence: `P gives the O to P .`
const LONGEST_ROUND: usize = 7;

/// Five people pass five things around for the whole document.
///
/// `Balo and Mira swap` exchanges everything that the two hold, so `now the key is with …` asks for a product of
/// permutations of five. No model of fixed depth computes that for every length unless TC⁰ = NC¹ (Merrill, Petty and
/// Sabharwal, 2024, arXiv:2404.08819).
pub(super) struct Custody {
    people: Vec<(u32, u32)>,
    things: Vec<(u32, u32)>,
}

impl Custody {
    pub(super) fn new(chance: &mut Chance) -> Self {
        Self { people: chance.zipf(PEOPLE), things: chance.zipf(THINGS) }
    }

    /// Emits the initial state, then sentences until the document ends.
    pub(super) fn write(&self, pen: &mut impl Pen) -> Result<(), Stopped> {
        let (mut people, mut things) = ([0; NUM], [0; NUM]);
        let (mut strangers, mut others) = (self.people.clone(), self.things.clone());
        for index in 0..NUM {
            people[index] = take(pen, &mut strangers, PEOPLE)?;
            pen.say(&[Word::Has, Word::The])?;
            things[index] = take(pen, &mut others, THINGS)?;
            pen.say(&[Word::FullStop])?;
        }
        // `holder[thing]`, indices into `things` and `people`.
        let mut holder: [usize; NUM] = std::array::from_fn(|index| index);
        loop {
            let starts: [(u32, u32); NUM + 1] =
                std::array::from_fn(|index| if index < NUM { (people[index], 3) } else { (Word::Now.id(), 5) });
            let person = pen.choose(&starts)?;
            if person == NUM {
                pen.say(&[Word::The])?;
                let thing = pen.choose(&things.map(|id| (id, 1)))?;
                pen.say(&[Word::Is, Word::With])?;
                pen.put(people[holder[thing]])?;
            } else if pen.pick([(Word::Gives, 3 * u32::from(holder.contains(&person))), (Word::And, 2)])? == Word::Gives
            {
                pen.say(&[Word::The])?;
                let held: [(u32, u32); NUM] =
                    std::array::from_fn(|thing| (things[thing], u32::from(holder[thing] == person)));
                let thing = pen.choose(&held)?;
                pen.say(&[Word::To])?;
                holder[thing] = choose_other(pen, &people, person)?;
            } else {
                let other = choose_other(pen, &people, person)?;
                pen.say(&[Word::Swap])?;
                holder = holder.map(|each| match each {
                    each if each == person => other,
                    each if each == other => person,
                    each => each,
                });
            }
            if !pen.goes_on(LONGEST_ROUND)? {
                return Ok(());
            }
        }
    }
}

/// Emits a word of a kind and removes it from the options.
fn take(pen: &mut impl Pen, options: &mut [(u32, u32)], kind: Kind) -> Result<u32, Stopped> {
    let chosen = pen.choose(options)?;
    options[chosen].1 = 0;
    Ok(kind.id(chosen))
}

fn choose_other(pen: &mut impl Pen, people: &[u32; NUM], person: usize) -> Result<usize, Stopped> {
    let options: [(u32, u32); NUM] = std::array::from_fn(|index| (people[index], u32::from(index != person)));
    pen.choose(&options)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use crate::data::language::tests::sentences;

    #[test]
    fn a_thing_is_with_the_person_who_last_got_it() {
        let mut answers = 0;
        for document in sentences("custody") {
            let mut holder: HashMap<&str, &str> = HashMap::new();
            for sentence in &document {
                match sentence.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                    [person, "has", "the", thing] => assert_eq!(holder.insert(thing, person), None),
                    [from, "gives", "the", thing, "to", to] => assert_eq!(holder.insert(thing, to), Some(from)),
                    [one, "and", other, "swap"] => holder.values_mut().for_each(|person| {
                        *person = if *person == one {
                            other
                        } else if *person == other {
                            one
                        } else {
                            *person
                        };
                    }),
                    ["now", "the", thing, "is", "with", person] => {
                        assert_eq!(holder[thing], person);
                        answers += 1;
                    }
                    _ => panic!("{sentence:?}"),
                }
            }
        }
        assert!(answers > 1_000, "{answers}");
    }
}
