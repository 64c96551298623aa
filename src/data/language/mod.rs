//! The built-in synthetic language: short documents about a made-up world, with exactly known probabilities.
//!
//! It needs no download, and it has a floor: the probability of every token given those before it is known, so the excess
//! of a model's loss over [`Document::logprobs`](super::Document) is exactly what the model has not learned. The eight
//! topics exercise different abilities: recall (`geography`, `trade`, `cooking`), composition of facts (`geography`,
//! `society`), sums (`trade`, `cooking`), a Markov chain (`weather`), state tracking (`custody`, `trade`), copying
//! (`quests`) and in-context lookup (`codes`).
//!
//! ```
//! use deepwide::data::language::{Language, Split};
//!
//! let language = Language::builtin();
//! let document = language.document(Split::Train, 0);
//! assert_eq!(language.logprobs(&document.ids), document.logprobs);
//! assert!(language.text(&document.ids).starts_with("<bos>"));
//! ```

mod chance;
mod codes;
mod cooking;
mod custody;
mod geography;
mod pen;
mod quests;
mod society;
mod trade;
mod vocabulary;
mod weather;

use chance::Chance;
use pen::{Pen, Reader, Stopped, Writer};
use vocabulary::Word;

use super::document::Document;

/// The seed of [`Language::builtin`].
const BUILTIN_SEED: u64 = 2_024;
/// One document in this many is held out.
const HELD_OUT_ONE_IN: u64 = 16;
/// Purposes of the random streams of documents, one per split; the worlds of the topics use the indices of the topics.
const DOCUMENTS: [u64; 2] = [1_000, 1_001];

const TOPICS: [&str; 8] = ["geography", "society", "trade", "cooking", "weather", "custody", "quests", "codes"];
const TITLES: [Word; TOPICS.len()] = [
    Word::Geography,
    Word::Society,
    Word::Trade,
    Word::Cooking,
    Word::Weather,
    Word::Custody,
    Word::Quests,
    Word::Codes,
];

/// The training or the held-out documents. No document is in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// 15 of 16 documents of the language.
    Train,
    /// 1 of 16.
    HeldOut,
}

/// A world with its facts and word frequencies, and the distribution of documents about it.
///
/// A document has 40 to 120 tokens: `<bos>`, the title of its topic, then sentences, the last of which ends with `<eos>`
/// instead of a full stop. All worlds have the same vocabulary.
pub struct Language {
    seed: u64,
    words: Vec<String>,
    geography: geography::Geography,
    society: society::Society,
    trade: trade::Trade,
    cooking: cooking::Cooking,
    weather: weather::Weather,
    custody: custody::Custody,
    quests: quests::Quests,
    codes: codes::Codes,
}

impl Language {
    /// The language of the world with this seed.
    pub fn new(seed: u64) -> Self {
        let chance = |topic: usize| Chance::new(seed, topic as u64, 0);
        Self {
            seed,
            words: vocabulary::words(),
            geography: geography::Geography::new(&mut chance(0)),
            society: society::Society::new(&mut chance(1)),
            trade: trade::Trade::new(&mut chance(2)),
            cooking: cooking::Cooking::new(&mut chance(3)),
            weather: weather::Weather::new(&mut chance(4)),
            custody: custody::Custody::new(&mut chance(5)),
            quests: quests::Quests::new(&mut chance(6)),
            codes: codes::Codes::new(&mut chance(7)),
        }
    }

    /// The world that all experiments of this crate use.
    pub fn builtin() -> Self {
        Self::new(BUILTIN_SEED)
    }

    /// The words by token id, at most 512; `<bos>` is 0.
    pub fn vocab(&self) -> &[String] {
        &self.words
    }

    /// The topics; [`Document::topic`](super::Document) is an index into them.
    pub fn topics(&self) -> &[&'static str] {
        &TOPICS
    }

    /// The document with this index: a pure function of the seed of the world, the split and the index.
    ///
    /// Documents are drawn until one belongs to the split, which [`Self::split_of`] decides by a hash of all ids. `logprobs`
    /// are those of the distribution `p` before the split. `−ln p` is the floor of a learner on held-out documents: the hash
    /// is independent of the tokens, so no learner can expect a lower loss on a document that it has not seen. (Training
    /// documents follow `p` conditioned on not being held out, which makes each likelier by `ln(16/15)`, 0.065 nats per
    /// document; only knowledge of the hash could exploit that.)
    pub fn document(&self, split: Split, index: u64) -> Document {
        let mut chance = Chance::new(self.seed, DOCUMENTS[split as usize], index);
        loop {
            let mut pen = Writer::new(&mut chance);
            let topic = self.write(&mut pen).expect("a writer never stops");
            if self.split_of(&pen.ids) == split {
                return Document { ids: pen.ids, logprobs: Some(pen.logprobs), topic: Some(topic) };
            }
        }
    }

    /// The split to which the document with these ids belongs.
    pub fn split_of(&self, ids: &[u32]) -> Split {
        // FNV-1a over the ids, then the finalizer of SplitMix64: unlike those of the standard library, stable.
        let hash = ids.iter().fold(0xcbf2_9ce4_8422_2325 ^ self.seed, |hash: u64, &id| {
            (hash ^ u64::from(id)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        if (hash ^ (hash >> 31)) % HELD_OUT_ONE_IN == 0 { Split::HeldOut } else { Split::Train }
    }

    /// `ln p(id | ids before it)` of each token of a complete document; `None` for a document of probability 0.
    pub fn logprobs(&self, ids: &[u32]) -> Option<Vec<f64>> {
        let mut pen = Reader::new(ids);
        let ended = self.write(&mut pen).is_ok();
        (ended && pen.len() == ids.len()).then_some(pen.logprobs)
    }

    /// `p(id | prefix)` of every id that can follow; they sum to 1. Empty if `prefix` is a complete document or starts none.
    pub fn next_distribution(&self, prefix: &[u32]) -> Vec<(u32, f64)> {
        let mut pen = Reader::new(prefix);
        match self.write(&mut pen) {
            Ok(_) => Vec::new(),
            Err(Stopped) => pen.next,
        }
    }

    /// The words of the ids, joined by spaces.
    ///
    /// # Panics
    /// If an id is not in the vocabulary.
    pub fn text(&self, ids: &[u32]) -> String {
        ids.iter().map(|&id| self.words[id as usize].as_str()).collect::<Vec<_>>().join(" ")
    }

    /// Emits a document with the pen and returns its topic.
    fn write(&self, pen: &mut impl Pen) -> Result<usize, Stopped> {
        pen.say(&[Word::Bos])?;
        let topic = pen.choose(&TITLES.map(|title| (title.id(), 1)))?;
        match TITLES[topic] {
            Word::Geography => self.geography.write(pen),
            Word::Society => self.society.write(pen),
            Word::Trade => self.trade.write(pen),
            Word::Cooking => self.cooking.write(pen),
            Word::Weather => self.weather.write(pen),
            Word::Custody => self.custody.write(pen),
            Word::Quests => self.quests.write(pen),
            _ => self.codes.write(pen),
        }?;
        Ok(topic)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::hash_map::Entry;
    use std::collections::{HashMap, HashSet};
    use std::hash::Hash;

    use super::*;

    /// The sentences of training documents about a topic, as words, without title and final mark.
    pub(super) fn sentences(topic: &str) -> Vec<Vec<Vec<String>>> {
        let language = Language::builtin();
        let is_about = |document: &Document| TOPICS[document.topic.unwrap()] == topic;
        let found = documents(&language, Split::Train, 8_000).filter(is_about).map(|document| {
            let sentences = document.ids[2..document.ids.len() - 1].split(|&id| id == Word::FullStop.id());
            let words = |ids: &[u32]| ids.iter().map(|&id| language.vocab()[id as usize].clone()).collect();
            sentences.map(words).collect()
        });
        found.collect()
    }

    /// Records `value` for `key`; `false` if another value was recorded before.
    pub(super) fn agrees<K: Eq + Hash, V: PartialEq>(known: &mut HashMap<K, V>, key: K, value: V) -> bool {
        match known.entry(key) {
            Entry::Occupied(known) => *known.get() == value,
            Entry::Vacant(unknown) => {
                unknown.insert(value);
                true
            }
        }
    }

    fn documents(language: &Language, split: Split, count: u64) -> impl Iterator<Item = Document> {
        (0..count).map(move |index| language.document(split, index))
    }

    fn nats(document: &Document) -> f64 {
        -document.logprobs.as_ref().unwrap().iter().sum::<f64>()
    }

    /// `−Σ p ln p` over what can follow `prefix`.
    fn entropy_nats(language: &Language, prefix: &[u32]) -> f64 {
        language.next_distribution(prefix).iter().map(|&(_, p)| -p * p.ln()).sum()
    }

    #[test]
    fn reading_a_document_gives_the_logprobs_of_writing_it() {
        let language = Language::builtin();
        for split in [Split::Train, Split::HeldOut] {
            for document in documents(&language, split, 400) {
                assert_eq!(language.logprobs(&document.ids), document.logprobs, "{}", language.text(&document.ids));
            }
        }
    }

    #[test]
    fn next_distributions_sum_to_one_and_name_no_token_twice() {
        let language = Language::builtin();
        for document in documents(&language, Split::Train, 200) {
            for (end, &id) in document.ids.iter().enumerate() {
                let next = language.next_distribution(&document.ids[..end]);
                assert!((next.iter().map(|&(_, p)| p).sum::<f64>() - 1.0).abs() < 1e-12);
                assert_eq!(next.iter().map(|&(id, _)| id).collect::<HashSet<_>>().len(), next.len());
                let p = next.iter().find(|option| option.0 == id).expect("what was written was an option").1;
                assert!((p.ln() - document.logprobs.as_ref().unwrap()[end]).abs() < 1e-12);
            }
            assert!(language.next_distribution(&document.ids).is_empty());
        }
    }

    #[test]
    fn tokens_follow_a_prefix_as_often_as_their_probability_says() {
        let language = Language::builtin();
        let documents: Vec<Document> = documents(&language, Split::Train, 40_000).collect();
        for prefix in [&[Word::Bos][..], &[Word::Bos, Word::Geography], &[Word::Bos, Word::Society, Word::The]] {
            let prefix: Vec<u32> = prefix.iter().map(|word| word.id()).collect();
            let followers: Vec<u32> = documents
                .iter()
                .filter_map(|document| document.ids.strip_prefix(&prefix[..])?.first().copied())
                .collect();
            let count = followers.len() as f64;
            assert!(count > 2_000.0, "only {count} documents begin with {prefix:?}");
            for (id, p) in language.next_distribution(&prefix) {
                let seen = followers.iter().filter(|&&follower| follower == id).count() as f64;
                let z = (seen - count * p) / (count * p * (1.0 - p)).sqrt();
                assert!(z.abs() < 4.5, "{} after {}: z = {z:.2}", language.text(&[id]), language.text(&prefix));
            }
        }
    }

    #[test]
    fn mean_loss_equals_conditional_entropy_in_every_topic_and_split() {
        let language = Language::builtin();
        for split in [Split::Train, Split::HeldOut] {
            let mut differences = vec![Vec::new(); TOPICS.len()];
            for document in documents(&language, split, 2_000) {
                let expected: f64 =
                    (0..document.ids.len()).map(|end| entropy_nats(&language, &document.ids[..end])).sum();
                differences[document.topic.unwrap()].push(nats(&document) - expected);
            }
            for (topic, differences) in TOPICS.iter().zip(differences) {
                let count = differences.len() as f64;
                let variance = differences.iter().map(|difference| difference * difference).sum::<f64>() / count;
                let z = differences.iter().sum::<f64>() / (count * variance).sqrt();
                assert!(z.abs() < 4.0, "{topic}: z = {z:.2}");
            }
        }
    }

    #[test]
    fn a_false_answer_has_probability_zero() {
        let language = Language::builtin();
        let is = Word::Is.id();
        let mut corrupted = 0;
        for document in documents(&language, Split::Train, 200).filter(|document| document.topic == Some(1)) {
            for at in 3..document.ids.len() {
                let certain = document.logprobs.as_ref().unwrap()[at] == 0.0;
                if document.ids[at - 1] == is && certain && document.ids[at] != Word::A.id() {
                    let mut ids = document.ids.clone();
                    ids[at] += if ids[at] as usize + 1 < language.vocab().len() { 1 } else { u32::MAX };
                    assert_eq!(language.logprobs(&ids), None, "{}", language.text(&ids));
                    corrupted += 1;
                }
            }
        }
        assert!(corrupted > 50, "only {corrupted} answers to corrupt");
    }

    #[test]
    fn a_shortened_or_extended_document_has_probability_zero() {
        let language = Language::builtin();
        let document = language.document(Split::Train, 0);
        assert!(language.logprobs(&document.ids).is_some());
        assert_eq!(language.logprobs(&document.ids[..document.ids.len() - 1]), None);
        assert_eq!(language.logprobs(&[&document.ids[..], &[Word::Eos.id()]].concat()), None);
        assert_eq!(language.logprobs(&[]), None);
        assert_eq!(language.next_distribution(&[Word::Eos.id()]), []);
        assert_eq!(language.next_distribution(&[]), [(0, 1.0)]);
    }

    #[test]
    fn facts_differ_between_worlds() {
        let (language, other) = (Language::new(1), Language::new(2));
        assert_eq!(language.vocab(), other.vocab());
        let understood =
            documents(&language, Split::Train, 200).filter(|each| other.logprobs(&each.ids).is_some()).count();
        assert!((20..150).contains(&understood), "{understood} of 200 documents of one world hold in another");
    }

    #[test]
    fn a_document_depends_on_seed_split_and_index_alone() {
        let (language, again) = (Language::builtin(), Language::builtin());
        for index in [0, 7, u64::MAX] {
            let document = language.document(Split::Train, index);
            assert_eq!(document, again.document(Split::Train, index));
            assert_ne!(document, language.document(Split::Train, index ^ 1));
            assert_ne!(document, language.document(Split::HeldOut, index));
        }
    }

    #[test]
    fn the_built_in_documents_never_change() {
        let language = Language::builtin();
        let begin = |split, index: u64| language.text(&language.document(split, index).ids[..14]);
        assert_eq!(
            begin(Split::Train, 0),
            "<bos> weather in spring at Brinwick : Monday foggy Tuesday foggy Wednesday foggy Thursday"
        );
        assert_eq!(
            begin(Split::Train, 1_000_000),
            "<bos> cooking Lelo makes lopzo : chop two carrots mash five honey grind four"
        );
        assert_eq!(
            begin(Split::HeldOut, 0),
            "<bos> cooking Kalo makes loptti : chop two pepper mash four oil grind three"
        );
    }

    #[test]
    fn splits_are_disjoint_and_documents_rarely_repeat() {
        let language = Language::builtin();
        let train: HashSet<Vec<u32>> = documents(&language, Split::Train, 5_000).map(|document| document.ids).collect();
        let held_out: HashSet<Vec<u32>> =
            documents(&language, Split::HeldOut, 5_000).map(|document| document.ids).collect();
        assert!(train.is_disjoint(&held_out));
        assert!(train.iter().all(|ids| language.split_of(ids) == Split::Train));
        assert!(train.len() > 4_950 && held_out.len() > 4_950, "{} and {} of 5000", train.len(), held_out.len());
    }

    #[test]
    fn one_document_in_sixteen_is_held_out() {
        let language = Language::builtin();
        let mut chance = Chance::new(0, 0, 0);
        let held_out = (0..16_000)
            .filter(|_| {
                let mut pen = Writer::new(&mut chance);
                language.write(&mut pen).unwrap();
                language.split_of(&pen.ids) == Split::HeldOut
            })
            .count();
        let deviation = (16_000.0 / 16.0 * (15.0 / 16.0_f64)).sqrt();
        assert!((held_out as f64 - 1_000.0).abs() < 4.0 * deviation, "{held_out} of 16000");
    }

    #[test]
    fn documents_have_40_to_120_tokens_a_title_and_one_end() {
        let language = Language::builtin();
        let mut shortest_and_longest = vec![(usize::MAX, 0); TOPICS.len()];
        for document in documents(&language, Split::Train, 5_000) {
            let (ids, topic) = (&document.ids, document.topic.unwrap());
            assert!(pen::LENGTH.contains(&ids.len()), "{} tokens: {}", ids.len(), language.text(ids));
            assert_eq!(language.text(&ids[..2]), format!("<bos> {}", language.topics()[topic]));
            assert_eq!(ids.iter().position(|&id| id == Word::Eos.id()), Some(ids.len() - 1));
            let (shortest, longest) = shortest_and_longest[topic];
            shortest_and_longest[topic] = (shortest.min(ids.len()), longest.max(ids.len()));
        }
        assert!(shortest_and_longest.iter().all(|&(shortest, longest)| shortest < 60 && longest > 90));
    }

    #[test]
    fn every_word_is_used() {
        let language = Language::builtin();
        let used: HashSet<u32> = documents(&language, Split::Train, 20_000).flat_map(|document| document.ids).collect();
        let unused: Vec<u32> = (0..language.vocab().len() as u32).filter(|id| !used.contains(id)).collect();
        assert!(unused.is_empty(), "never used: {}", language.text(&unused));
    }

    #[test]
    fn the_floor_is_two_nats_below_unigrams_and_one_below_bigrams() {
        let language = Language::builtin();
        let held_out: Vec<Document> = documents(&language, Split::HeldOut, 500).collect();
        let (mut words, mut pairs, mut total) = (HashMap::new(), HashMap::new(), 0.0);
        for document in documents(&language, Split::Train, 20_000) {
            for pair in document.ids.windows(2) {
                *words.entry(pair[1]).or_insert(0.0) += 1.0;
                *pairs.entry((pair[0], pair[1])).or_insert(0.0) += 1.0;
                *pairs.entry((pair[0], u32::MAX)).or_insert(0.0) += 1.0;
                total += 1.0;
            }
        }
        let vocab_size = language.vocab().len() as f64;
        let count = |pair: (u32, u32)| pairs.get(&pair).copied().unwrap_or(0.0);
        let (mut floor, mut unigram, mut bigram, mut tokens) = (0.0, 0.0, 0.0, 0.0);
        for document in &held_out {
            floor += nats(document);
            tokens += (document.ids.len() - 1) as f64;
            for pair in document.ids.windows(2) {
                let word = (words.get(&pair[1]).copied().unwrap_or(0.0) + 1.0) / (total + vocab_size);
                unigram -= word.ln();
                bigram -= ((count((pair[0], pair[1])) + word) / (count((pair[0], u32::MAX)) + 1.0)).ln();
            }
        }
        let [floor, unigram, bigram] = [floor, unigram, bigram].map(|nats: f64| nats / tokens);
        println!("nats per token: floor {floor:.3}, bigrams {bigram:.3}, unigrams {unigram:.3}");
        for (topic, title) in TOPICS.iter().enumerate() {
            let of_topic = || held_out.iter().filter(|document| document.topic == Some(topic));
            let tokens: usize = of_topic().map(|document| document.ids.len() - 1).sum();
            println!("  {title}: {:.3} over {tokens} tokens", of_topic().map(nats).sum::<f64>() / tokens as f64);
        }
        assert!((0.5..2.5).contains(&floor));
        assert!(unigram - floor > 2.0);
        assert!(bigram - floor > 1.0);
    }
}
