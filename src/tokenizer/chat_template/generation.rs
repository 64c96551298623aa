//! `{% generation %}` blocks: what the model itself says.
//!
//! transformers renders such a block as the body of a call whose result is printed: it reads the variables around it, and
//! what it sets is gone after it. A filter block around a `with` block does the same. The filter puts a mark before and
//! after the text, if marks are wanted.

use std::ops::Range;

use minijinja::State;

use super::tags::tags;

/// The filter of the blocks.
pub(super) const FILTER: &str = "__generation";
/// The variable with the two marks.
pub(super) const MARKS: &str = "__generation_marks";

/// The source with filter blocks in the place of generation blocks, and whether there are any.
pub(super) fn with_filter_blocks(source: &str) -> (String, bool) {
    let mut rewritten = String::with_capacity(source.len());
    let mut at = 0;
    for tag in tags(source).into_iter().filter(|tag| tag.is_statement) {
        let tags = match tag.content {
            "generation" => format!("filter {FILTER} %}}{{% with"),
            "endgeneration" => "endwith %}{% endfilter".to_owned(),
            _ => continue,
        };
        rewritten.push_str(&source[at..tag.range.start]);
        rewritten.push_str(&source[tag.range.clone()].replacen(tag.content, &tags, 1));
        at = tag.range.end;
    }
    rewritten.push_str(&source[at..]);
    (rewritten, at > 0)
}

/// The text of a block, between marks if there are some.
pub(super) fn mark(state: &State, text: &str) -> String {
    match state.lookup(MARKS) {
        Some(marks) => {
            let [open, close] = [0, 1].map(|index| marks.get_item_by_index(index).unwrap_or_default());
            format!("{open}{text}{close}")
        }
        None => text.to_owned(),
    }
}

/// Two characters that are not in the texts: of those that Unicode keeps free for such purposes.
pub(super) fn marks(texts: [&str; 2]) -> Option<[char; 2]> {
    let mut free = ('\u{fdd0}'..='\u{fdef}').filter(|mark| !texts.iter().any(|text| text.contains(*mark)));
    Some([free.next()?, free.next()?])
}

/// Takes the marks out of a text. Gives the byte ranges of what they enclose in the text without them, sorted; `None` if
/// the marks are not in pairs.
pub(super) fn take_marks(marked: &str, [open, close]: [char; 2]) -> Option<(String, Vec<Range<usize>>)> {
    let mut text = String::with_capacity(marked.len());
    let (mut starts, mut spans) = (Vec::new(), Vec::new());
    for part in marked.split_inclusive([open, close]) {
        let mark = part.chars().last().filter(|last| [open, close].contains(last));
        text.push_str(&part[..part.len() - mark.map_or(0, char::len_utf8)]);
        match mark {
            Some(mark) if mark == open => starts.push(text.len()),
            Some(_) => spans.push(starts.pop()?..text.len()),
            None => {}
        }
    }
    spans.sort_by_key(|span| (span.start, span.end));
    starts.is_empty().then_some((text, spans))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_tags_of_generation_blocks_are_rewritten() {
        let source = "{# {% generation %} #}{%- generation -%}\n{{ '{% generation %}' }}{%+endgeneration%}\
                      {% set generation = 1 %}";
        let expected = "{# {% generation %} #}{%- filter __generation %}{% with -%}\n{{ '{% generation %}' }}\
                        {%+endwith %}{% endfilter%}{% set generation = 1 %}";
        assert_eq!(with_filter_blocks(source), (expected.to_owned(), true));
        assert_eq!(with_filter_blocks("{{ generation }}"), ("{{ generation }}".to_owned(), false));
    }

    #[test]
    fn marks_are_taken_out_and_leave_ranges() {
        let take = |text| take_marks(text, ['<', '>']);
        assert_eq!(take("a<é>b<>"), Some(("aéb".to_owned(), vec![1..3, 4..4])));
        assert_eq!(take("<a<b>>"), Some(("ab".to_owned(), vec![0..2, 1..2])));
        assert_eq!(take("plain"), Some(("plain".to_owned(), vec![])));
        assert_eq!(take("<a"), None);
        assert_eq!(take("a>"), None);
    }

    #[test]
    fn marks_are_characters_that_the_texts_lack() {
        assert_eq!(marks(["a", "b"]), Some(['\u{fdd0}', '\u{fdd1}']));
        assert_eq!(marks(["a\u{fdd0}", "\u{fdd2}"]), Some(['\u{fdd1}', '\u{fdd3}']));
        assert_eq!(marks([&('\u{fdd0}'..='\u{fdef}').collect::<String>(), ""]), None);
    }
}
