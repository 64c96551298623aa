//! Keys at the top of a config that mergekit ignores, and that people use to hold anchors.

use super::error::Position;
use super::yaml::Node;

/// Whether the value of `key`, a key at the top of `text`, defines an anchor. `keys` are all keys at the top.
pub(super) fn has_anchor<'n>(text: &str, key: &Node, keys: impl Iterator<Item = &'n Node>) -> bool {
    let end = keys.map(|other| other.at).filter(|&at| at > key.at).min();
    let (from, to) = (offset(text, key.at), end.map_or(text.len(), |end| offset(text, end)));
    defines_anchor(&text[from..to])
}

/// The byte at a place.
fn offset(text: &str, Position { line, column }: Position) -> usize {
    let lines = text.split_inclusive('\n');
    let before: usize = lines.clone().take(line as usize - 1).map(str::len).sum();
    let line = lines.clone().nth(line as usize - 1).unwrap_or_default();
    before + line.chars().take(column as usize - 1).map(char::len_utf8).sum::<usize>()
}

/// Whether YAML has an anchor, `&name`, outside of quotes and comments.
fn defines_anchor(yaml: &str) -> bool {
    let (mut quote, mut is_comment, mut before) = (None, false, ' ');
    for c in yaml.chars() {
        match (quote, c) {
            _ if is_comment => is_comment = c != '\n',
            (Some(open), c) if c == open && before != '\\' => quote = None,
            (None, '"' | '\'') if !before.is_alphanumeric() => quote = Some(c),
            (None, '#') if before.is_whitespace() => is_comment = true,
            (None, c) if before == '&' && !c.is_whitespace() => return true,
            _ => {}
        }
        // Only an ampersand that begins a token can begin an anchor.
        let begins = before.is_whitespace() || "[{,".contains(before);
        before = if c == '&' && (quote.is_some() || is_comment || !begins) { 'x' } else { c };
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_is_found_wherever_it_is_defined() {
        for yaml in ["a: &a 1", "a: &a {b: 1}", "a:\n  - &x 1\n", "a: [&x 1, 2]", "a: {b: &x 1}", "a: 'q' \nb: &x 1"] {
            assert!(defines_anchor(yaml), "{yaml}");
        }
    }

    #[test]
    fn quotes_comments_and_text_hold_no_anchor() {
        for yaml in ["a: 1", "a: R&D", "a: '&x'", "a: \"x &y\"", "a: 1 # &x", "a: x & y", "a: *x"] {
            assert!(!defines_anchor(yaml), "{yaml}");
        }
    }
}
