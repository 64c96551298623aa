//! Trade: prices that differ between towns, and a purse to keep count of.

use super::chance::Chance;
use super::pen::{Pen, Stopped};
use super::vocabulary::{GOODS, NUMBERS, PEOPLE, TOWNS, Word};

/// Longest sentence: `P buys G for N and keeps N .`
const LONGEST_ROUND: usize = 9;
/// Every town has goods at each price, so a purse with at least this much can always buy.
const MIN_PRICE: usize = 1;
const MAX_PRICE: usize = 9;
const MAX_COINS: usize = NUMBERS.len() - 1;

/// The price of every good in every town, in coins.
///
/// `Balo buys figs for three and keeps six` combines a fact about the town with a difference from the coins that the
/// previous sentence left.
pub(super) struct Trade {
    /// `prices[town][good]`, in `MIN_PRICE..=MAX_PRICE`.
    prices: Vec<Vec<usize>>,
    people: Vec<(u32, u32)>,
    towns: Vec<(u32, u32)>,
    goods: Vec<(u32, u32)>,
}

impl Trade {
    pub(super) fn new(chance: &mut Chance) -> Self {
        let mut price_list =
            || chance.assignment(GOODS.len(), MAX_PRICE).into_iter().map(|price| price + MIN_PRICE).collect();
        let prices = (0..TOWNS.len()).map(|_| price_list()).collect();
        Self { prices, people: chance.zipf(PEOPLE), towns: chance.zipf(TOWNS), goods: chance.zipf(GOODS) }
    }

    /// Emits the arrival of a trader, then sentences until the document ends.
    pub(super) fn write(&self, pen: &mut impl Pen) -> Result<(), Stopped> {
        let trader = PEOPLE.id(pen.choose(&self.people)?);
        pen.say(&[Word::Comes, Word::To])?;
        let mut town = pen.choose(&self.towns)?;
        pen.say(&[Word::With])?;
        let mut coins = pen.choose(&NUMBERS.ids().map(|id| (id, 1)).collect::<Vec<_>>())?;
        pen.say(&[Word::Coins])?;
        while pen.goes_on(LONGEST_ROUND)? {
            if pen.choose(&[(Word::Here.id(), 1), (trader, 4)])? == 0 {
                let good = pen.choose(&self.goods)?;
                pen.say(&[Word::Costs])?;
                pen.put(NUMBERS.id(self.prices[town][good]))?;
                continue;
            }
            let may_buy = u32::from(coins >= MIN_PRICE);
            let may_sell = u32::from(coins + MIN_PRICE <= MAX_COINS);
            match pen.pick([(Word::Buys, 2 * may_buy), (Word::Sells, 2 * may_sell), (Word::Goes, 1)])? {
                Word::Buys => coins -= self.deal(pen, town, coins, |price| coins - price)?,
                Word::Sells => coins += self.deal(pen, town, MAX_COINS - coins, |price| coins + price)?,
                _ => {
                    pen.say(&[Word::To])?;
                    town = pen.choose(&self.towns)?;
                }
            }
        }
        Ok(())
    }

    /// Emits `figs for three and keeps six`; returns the price, at most `limit`.
    fn deal(
        &self,
        pen: &mut impl Pen,
        town: usize,
        limit: usize,
        rest: impl Fn(usize) -> usize,
    ) -> Result<usize, Stopped> {
        let prices = &self.prices[town];
        let mut affordable = [(0, 0); GOODS.len()];
        for (option, (&(good, weight), &price)) in affordable.iter_mut().zip(self.goods.iter().zip(prices)) {
            *option = (good, if price <= limit { weight } else { 0 });
        }
        let price = prices[pen.choose(&affordable)?];
        pen.say(&[Word::For])?;
        pen.put(NUMBERS.id(price))?;
        pen.say(&[Word::And, Word::Keeps])?;
        pen.put(NUMBERS.id(rest(price)))?;
        Ok(price)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::data::language::tests::{agrees, sentences};
    use crate::data::language::vocabulary;

    #[test]
    fn prices_depend_on_the_town_and_purses_add_up() {
        let words = vocabulary::words();
        let number = |word: &str| NUMBERS.ids().position(|id| words[id as usize] == word).expect("a number");
        let mut prices = HashMap::new();
        for document in sentences("trade") {
            let [_, _, _, mut town, _, coins, _] = document[0].iter().collect::<Vec<_>>()[..] else {
                panic!("{:?}", document[0]);
            };
            let mut coins = number(coins);
            for sentence in &document[1..] {
                match sentence.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                    ["here", good, "costs", price] => {
                        assert!(agrees(&mut prices, (town.clone(), good.to_owned()), number(price)));
                    }
                    [_, "goes", "to", _] => town = &sentence[3],
                    [_, verb, good, "for", price, "and", "keeps", rest] => {
                        let price = number(price);
                        assert!(agrees(&mut prices, (town.clone(), good.to_owned()), price));
                        coins = if verb == "buys" { coins - price } else { coins + price };
                        assert_eq!(number(rest), coins);
                    }
                    _ => panic!("{sentence:?}"),
                }
            }
        }
        assert!(prices.len() > 700, "{} prices", prices.len());
        assert_eq!(prices.values().max(), Some(&MAX_PRICE));
    }
}
