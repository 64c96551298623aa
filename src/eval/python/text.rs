//! Methods of Python's `str`.

/// `str.isspace` of a character: Unicode white space and the four separators of ASCII.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `text.strip()`.
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// The white space at the end of a text: `text[len(text.rstrip()):]`.
pub fn trailing_spaces(text: &str) -> &str {
    &text[text.trim_end_matches(is_space).len()..]
}

/// `text.capitalize()`: the first character in upper case, all others in lower case.
pub fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return String::new() };
    let mut upper = first.to_uppercase();
    let first: String = upper.next().into_iter().chain(upper.flat_map(char::to_lowercase)).collect();
    first + &chars.as_str().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_is_that_of_python() {
        assert_eq!(strip("\u{1f} a b\u{a0}\n"), "a b");
        assert_eq!(trailing_spaces("a \u{2003}\t"), " \u{2003}\t");
        assert_eq!(trailing_spaces("a\u{200b}"), "", "no space in Unicode");
    }

    #[test]
    fn capitalizing_lowers_the_rest() {
        assert_eq!(capitalize("tHE Dog's NAME"), "The dog's name");
        assert_eq!(capitalize("ßa"), "Ssa");
        assert_eq!(capitalize(""), "");
        assert_eq!(capitalize("[title] X"), "[title] x");
    }
}
