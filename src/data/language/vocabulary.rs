//! The vocabulary: single words, and kinds of names.

/// Defines the single words of the language; their order is that of their ids.
macro_rules! single_words {
    ($($name:ident $text:literal),+ $(,)?) => {
        /// A word that belongs to no kind; its token id is its place in the list.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u32)]
        pub(super) enum Word { $(#[doc = $text] $name),+ }

        const SINGLE: &[&str] = &[$($text),+];
    };
}

single_words! {
    Bos "<bos>", Eos "<eos>", FullStop ".", Colon ":",
    Geography "geography", Society "society", Trade "trade", Cooking "cooking",
    Weather "weather", Custody "custody", Quests "quests", Codes "codes",
    A "a", And "and", At "at", Is "is", In "in", Its "its", Of "of", The "the", To "to", With "with",
    Capital "capital", River "river", Crop "crop", Ruler "ruler", Flag "flag", Beast "beast",
    Land "land", North "north", Lies "lies",
    Teacher "teacher", Friend "friend", Rival "rival", Craft "craft", Home "home", Pet "pet",
    Colour "colour", Food "food", Lives "lives", Keeps "keeps",
    Comes "comes", Goes "goes", Coins "coins", Buys "buys", Sells "sells", For "for", Here "here", Costs "costs",
    Makes "makes", Total "total",
    Has "has", Gives "gives", Swap "swap", Now "now",
    Out "out", Back "back", Again "again",
    Means "means", Say "say", Find "find",
}

impl Word {
    /// The token id.
    pub(super) const fn id(self) -> u32 {
        self as u32
    }
}

/// Interchangeable words with consecutive token ids: every stem with every ending.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Kind {
    first: u32,
    stems: &'static [&'static str],
    endings: &'static [&'static str],
}

impl Kind {
    const fn after(previous: Self, stems: &'static [&'static str], endings: &'static [&'static str]) -> Self {
        Self { first: previous.first + previous.len() as u32, stems, endings }
    }

    /// Number of words.
    pub(super) const fn len(self) -> usize {
        self.stems.len() * self.endings.len()
    }

    /// The token id of a word.
    ///
    /// # Panics
    /// If the kind has no more than `index` words.
    pub(super) fn id(self, index: usize) -> u32 {
        assert!(index < self.len(), "a kind of {} words has none with index {index}", self.len());
        self.first + index as u32
    }

    /// The token ids of all words.
    pub(super) fn ids(self) -> impl Iterator<Item = u32> {
        (0..self.len()).map(move |index| self.id(index))
    }

    fn words(self) -> impl Iterator<Item = String> {
        self.stems.iter().flat_map(move |stem| self.endings.iter().map(move |ending| format!("{stem}{ending}")))
    }
}

const WHOLE: &[&str] = &[""];
const SINGLES: Kind = Kind { first: 0, stems: SINGLE, endings: WHOLE };

pub(super) const PEOPLE: Kind = Kind::after(
    SINGLES,
    &["Ba", "De", "Fi", "Go", "Hu", "Ka", "Le", "Mi", "No", "Ru", "Sa", "Ti"],
    &["lo", "ra", "nik", "mel", "dun"],
);
pub(super) const LANDS: Kind = Kind::after(
    PEOPLE,
    &["Vor", "Zan", "Quel", "Ost", "Pel", "Dran", "Yor", "Ulm"],
    &["ia", "mark", "land", "stan", "ova", "esh"],
);
pub(super) const TOWNS: Kind = Kind::after(
    LANDS,
    &["Ath", "Brin", "Cor", "Dul", "Eck", "Fam", "Gris", "Hol"],
    &["ton", "ford", "wick", "ham", "by", "mouth"],
);
pub(super) const RIVERS: Kind =
    Kind::after(TOWNS, &["Isk", "Lim", "Nar", "Oth", "Sev", "Tam", "Wen", "Ark"], &["une", "ava", "el"]);
pub(super) const BEASTS: Kind =
    Kind::after(RIVERS, &["glim", "snor", "wob", "tuk", "fex", "mur", "plu", "zib"], &["bit", "ling", "pod", "wurm"]);
pub(super) const DISHES: Kind =
    Kind::after(BEASTS, &["bor", "chu", "gan", "lop", "mok", "tar"], &["sha", "tti", "nel", "zo"]);
pub(super) const GOODS: Kind = Kind::after(
    DISHES,
    &[
        "salt", "honey", "figs", "flour", "butter", "milk", "eggs", "rice", "beans", "onions", "garlic", "pepper",
        "lemons", "mint", "plums", "apples", "cheese", "oil", "nuts", "barley", "carrots", "fish", "wine", "tea",
    ],
    WHOLE,
);
pub(super) const NUMBERS: Kind = Kind::after(
    GOODS,
    &[
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
        "twenty",
    ],
    WHOLE,
);
pub(super) const COLOURS: Kind = Kind::after(
    NUMBERS,
    &["red", "blue", "green", "yellow", "black", "white", "brown", "grey", "pink", "purple", "orange", "golden"],
    WHOLE,
);
pub(super) const ROOMS: Kind = Kind::after(
    COLOURS,
    &["kitchen", "hall", "cellar", "attic", "garden", "tower", "stable", "library", "chapel", "barn", "cave", "bridge"],
    WHOLE,
);
pub(super) const THINGS: Kind = Kind::after(
    ROOMS,
    &[
        "key", "lamp", "rope", "map", "coin", "ring", "sword", "cup", "drum", "book", "bell", "mirror", "flute",
        "crown", "knife", "shield",
    ],
    WHOLE,
);
pub(super) const CRAFTS: Kind = Kind::after(
    THINGS,
    &[
        "baker", "smith", "weaver", "potter", "sailor", "hunter", "healer", "singer", "miller", "tailor", "mason",
        "farmer",
    ],
    WHOLE,
);
pub(super) const STEPS: Kind =
    Kind::after(CRAFTS, &["chop", "fry", "boil", "bake", "stir", "mash", "soak", "grind"], WHOLE);
pub(super) const SKIES: Kind =
    Kind::after(STEPS, &["sunny", "rainy", "windy", "foggy", "snowy", "stormy", "cloudy", "frosty"], WHOLE);
pub(super) const SEASONS: Kind = Kind::after(SKIES, &["spring", "summer", "autumn", "winter"], WHOLE);
pub(super) const DAYS: Kind =
    Kind::after(SEASONS, &["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"], WHOLE);

const KINDS: [Kind; 17] = [
    SINGLES, PEOPLE, LANDS, TOWNS, RIVERS, BEASTS, DISHES, GOODS, NUMBERS, COLOURS, ROOMS, THINGS, CRAFTS, STEPS,
    SKIES, SEASONS, DAYS,
];

/// All words of the language by token id.
pub(super) fn words() -> Vec<String> {
    KINDS.into_iter().flat_map(Kind::words).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn at_most_512_words_and_no_word_twice() {
        let words = words();
        assert!(words.len() <= 512, "{} words", words.len());
        assert_eq!(words.iter().collect::<HashSet<_>>().len(), words.len());
    }

    #[test]
    fn a_kind_names_its_own_words() {
        let words = words();
        assert_eq!(words[PEOPLE.id(0) as usize], "Balo");
        assert_eq!(words[TOWNS.id(7) as usize], "Brinford");
        assert_eq!(words[NUMBERS.id(20) as usize], "twenty");
        assert_eq!(words[DAYS.id(6) as usize], "Sunday");
        assert_eq!(words.len(), DAYS.id(6) as usize + 1);
    }

    #[test]
    fn single_words_are_at_their_ids() {
        let words = words();
        for (word, text) in [(Word::Bos, "<bos>"), (Word::Codes, "codes"), (Word::The, "the"), (Word::Find, "find")] {
            assert_eq!(words[word.id() as usize], text);
        }
    }

    #[test]
    #[should_panic(expected = "has none with index 4")]
    fn a_kind_has_no_word_beyond_its_last() {
        SEASONS.id(4);
    }
}
