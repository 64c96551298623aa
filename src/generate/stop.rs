//! Strings that end a text.

/// Looks for strings in a text that comes in parts. Text that may be the beginning of one is held back.
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    strings: Vec<String>,
    held: String,
}

impl StopStrings {
    /// Looks for these strings; empty ones do not count.
    pub fn new(strings: impl IntoIterator<Item = String>) -> Self {
        Self { strings: strings.into_iter().filter(|string| !string.is_empty()).collect(), held: String::new() }
    }

    /// The text that is certain after this part, and whether a string was found: then it is the text before the string.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.held += text;
        if let Some(at) = self.strings.iter().filter_map(|string| self.held.find(string)).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let rest = self.held.split_off(self.held.len() - self.num_uncertain());
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// The text that is held back, when no more comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Length of the longest end of the text that begins a string.
    fn num_uncertain(&self) -> usize {
        let longest = |string: &String| {
            let most = (string.len() - 1).min(self.held.len());
            (1..=most).rev().find(|len| string.is_char_boundary(*len) && self.held.ends_with(&string[..*len]))
        };
        self.strings.iter().filter_map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(strings: &[&str], parts: &[&str]) -> (Vec<String>, bool) {
        let mut stop = StopStrings::new(strings.iter().map(|string| string.to_string()));
        let mut texts = Vec::new();
        for part in parts {
            let (text, found) = stop.push(part);
            texts.push(text);
            if found {
                return (texts, true);
            }
        }
        texts.push(stop.finish());
        (texts, false)
    }

    #[test]
    fn a_string_is_found_across_parts_and_its_beginning_is_held_back() {
        let (texts, found) = cut(&["</s>"], &["a<", "/s", "b</", "s>c"]);
        assert_eq!((texts, found), (["a", "", "</sb", ""].map(String::from).to_vec(), true));
        let (texts, found) = cut(&["</s>"], &["a</s"]);
        assert_eq!((texts.concat(), found), ("a</s".to_owned(), false));
        assert_eq!(cut(&["aab"], &["aa", "ab"]), (["", "a"].map(String::from).to_vec(), true));
        assert_eq!(cut(&["äö"], &["ä", "ä", "ö"]), (["", "ä", ""].map(String::from).to_vec(), true));
        assert_eq!(cut(&["", "cd", "b"], &["abcd"]), (vec!["a".to_owned()], true));
        assert_eq!(cut(&[], &["a", "b"]).0.concat(), "ab");
    }

    proptest! {
        #[test]
        fn the_text_is_that_before_the_first_match_however_it_is_divided(
            text in "[abä]{0,24}",
            strings in prop::collection::vec("[abä]{1,4}", 0..3),
            places in prop::collection::vec(any::<prop::sample::Index>(), 0..24),
        ) {
            let chars: Vec<char> = text.chars().collect();
            let mut places: Vec<usize> = places.iter().map(|place| place.index(chars.len() + 1)).collect();
            places.extend([0, chars.len()]);
            places.sort_unstable();
            let parts: Vec<String> = places.windows(2).map(|pair| chars[pair[0]..pair[1]].iter().collect()).collect();
            // The first match to be complete ends the text; of several in one part, the one that begins first.
            let mut so_far = String::new();
            let expected = parts.iter().find_map(|part| {
                so_far += part;
                let at = strings.iter().filter_map(|string| so_far.find(string.as_str())).min()?;
                Some(so_far[..at].to_owned())
            });
            let strings: Vec<&str> = strings.iter().map(String::as_str).collect();
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            let (texts, found) = cut(&strings, &parts);
            prop_assert_eq!(found, expected.is_some());
            prop_assert_eq!(texts.concat(), expected.unwrap_or(text));
        }
    }
}
