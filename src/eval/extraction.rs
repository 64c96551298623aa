//! Answers in generated text.

use std::sync::LazyLock;

use regex::Regex;

use super::tasks::Filter;

/// The answer where none is found.
const INVALID: &str = "[invalid]";

static STRICT: LazyLock<Regex> = LazyLock::new(|| pattern(r"#### (\-?[0-9\.\,]+)"));
static FLEXIBLE: LazyLock<Regex> = LazyLock::new(|| pattern(r"(-?[$0-9.,]{2,})|(-?[0-9]+)"));
/// Patterns that are removed before answers are compared, in this order.
static IGNORED: LazyLock<[Regex; 4]> = LazyLock::new(|| [",", r"\$", "(?s).*#### ", r"\.$"].map(pattern));

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a valid pattern")
}

/// The answer that a filter finds in a text.
pub fn extracted(text: &str, filter: Filter) -> String {
    let found = match filter {
        Filter::None => return text.to_owned(),
        Filter::StrictMatch => STRICT.captures_iter(text).next(),
        Filter::FlexibleExtract => FLEXIBLE.captures_iter(text).last(),
    };
    let group = found.and_then(|found| found.iter().skip(1).flatten().next().map(|group| group.as_str().to_owned()));
    group.map_or_else(|| INVALID.to_owned(), |group| group.trim().to_owned())
}

/// Whether an answer is the reference: without commas, dollar signs, what comes before `####`, a full stop at the end, and
/// differences of case.
pub fn exact_match(answer: &str, reference: &str) -> bool {
    let plain = |text: &str| {
        let text = IGNORED.iter().fold(text.to_owned(), |text, ignored| ignored.replace_all(&text, "").into_owned());
        text.to_lowercase()
    };
    plain(answer) == plain(reference)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strict_answer_is_the_first_behind_the_mark_and_the_flexible_one_the_last_number() {
        let text = "So 3 + 4 = 7.\n#### 1,007.\n#### 8 of $12.50 left";
        assert_eq!(extracted(text, Filter::StrictMatch), "1,007.");
        assert_eq!(extracted(text, Filter::FlexibleExtract), "$12.50");
        assert_eq!(extracted("only 5", Filter::FlexibleExtract), "5");
        for filter in [Filter::StrictMatch, Filter::FlexibleExtract] {
            assert_eq!(extracted("#### none", filter), "[invalid]");
        }
    }

    #[test]
    fn answers_match_by_their_numbers() {
        let reference = "She has 1,000 + 7 = 1007.\nSo:\n#### 1,007";
        assert!(exact_match("1,007.", reference) && exact_match("$1007", reference));
        assert!(!exact_match("1007.0", reference) && !exact_match("[invalid]", reference));
    }

    #[test]
    fn a_text_of_a_million_digits_takes_linear_time() {
        let digits = "9,".repeat(500_000);
        assert_eq!(extracted(&digits, Filter::FlexibleExtract).len(), digits.len());
        assert!(!exact_match(&digits, "#### 1"));
    }
}
