//! The tags of a Jinja source: enough of its syntax to tell them from text, comments and strings.

use std::ops::Range;

/// A `{% … %}` or `{{ … }}`.
pub(super) struct Tag<'a> {
    /// The place of `{%` and of what follows `%}`.
    pub range: Range<usize>,
    /// What is between the delimiters, without marks of white-space control and the white space itself.
    pub content: &'a str,
    /// Whether it is a statement: `{% … %}`.
    pub is_statement: bool,
    /// Bytes of the content without string literals.
    pub size_bytes: usize,
}

/// All tags outside comments and raw blocks, the tags of raw blocks included.
pub(super) fn tags(source: &str) -> Vec<Tag<'_>> {
    let mut tags = Vec::new();
    let mut at = 0;
    while let Some(start) = source[at..].find('{').map(|found| at + found) {
        at = match source.as_bytes().get(start + 1) {
            Some(b'#') => source[start..].find("#}").map_or(source.len(), |found| start + found + 2),
            Some(b'%') => {
                let tag = tag(source, start, b'%');
                let mut end = tag.range.end;
                if tag.content == "raw" {
                    end = end_of_raw(source, end);
                }
                tags.push(tag);
                end
            }
            Some(b'{') => {
                tags.push(tag(source, start, b'}'));
                tags.last().map_or(0, |tag| tag.range.end)
            }
            _ => start + 1,
        };
    }
    tags
}

/// The tag at `start` that ends with `closing` and a brace, or with the source.
fn tag(source: &str, start: usize, closing: u8) -> Tag<'_> {
    let bytes = source.as_bytes();
    let (mut at, mut size_bytes, mut quote) = (start + 2, 0, None);
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(_), b'\\') => at += 1,
            (Some(open), byte) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, byte @ (b'"' | b'\'')) => quote = Some(byte),
            (None, byte) if byte == closing && bytes.get(at + 1) == Some(&b'}') => break,
            (None, _) => size_bytes += 1,
        }
        at += 1;
    }
    let inside = &source[start + 2..at.min(source.len())];
    let content = inside.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
    Tag { range: start..(at + 2).min(source.len()), content, is_statement: closing == b'%', size_bytes }
}

/// Where the raw block that begins at `at` ends: at its `{% endraw %}`.
fn end_of_raw(source: &str, at: usize) -> usize {
    let mut starts = source[at..].match_indices("{%").map(|(found, _)| at + found);
    starts.find(|start| tag(source, *start, b'%').content == "endraw").unwrap_or(source.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(source: &str) -> Vec<&str> {
        tags(source).into_iter().map(|tag| tag.content).collect()
    }

    #[test]
    fn tags_are_told_from_text_comments_strings_and_raw_blocks() {
        assert_eq!(
            contents("a { b {%- if x -%} {{ '%}' ~ \"}}\" }} {# {% no %} #}{%+ endif %}"),
            ["if x", "'%}' ~ \"}}\"", "endif"]
        );
        assert_eq!(contents(r"{{ 'it\'s }}' }}{{ x }}"), [r"'it\'s }}'", "x"]);
        assert_eq!(contents("{% raw %}{{ no }}{% no %}{%- endraw %}{{ x }}"), ["raw", "endraw", "x"]);
    }

    #[test]
    fn what_is_never_closed_reaches_to_the_end() {
        for (source, expected) in [
            ("{{ a", &["a"][..]),
            ("{% 'a %}", &["'a %}"]),
            ("{# a", &[]),
            ("{% raw %}{{ a }}", &["raw"]),
            ("{", &[]),
            ("{%", &[""]),
            ("{{ 'é\\", &["'é\\"]),
        ] {
            assert_eq!(contents(source), expected, "{source}");
        }
    }

    #[test]
    fn ranges_hold_the_delimiters_and_sizes_leave_strings_out() {
        let source = "ab{%- if 'long' -%}c";
        let tag = &tags(source)[0];
        assert_eq!(&source[tag.range.clone()], "{%- if 'long' -%}");
        assert_eq!(tag.size_bytes, "- if  -".len());
    }
}
