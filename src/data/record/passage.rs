//! Parts of a record: text or messages.

use super::fault::RowFault;
use crate::tokenizer::Message;

/// Part of a record.
#[derive(Debug, Clone, PartialEq)]
pub enum Passage {
    /// Text that goes to the tokenizer as it is.
    Text(String),
    /// Messages that go through the chat template.
    Messages(Vec<Message>),
}

impl Passage {
    /// Whether it says nothing: no text, no calls of tools.
    pub fn is_empty(&self) -> bool {
        let is_silent = |one: &Message| one.text() == Some("") && one.get("tool_calls").is_none();
        match self {
            Self::Text(text) => text.is_empty(),
            Self::Messages(messages) => messages.iter().all(is_silent),
        }
    }

    fn noun(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Messages(_) => "a list of messages",
        }
    }
}

/// Refuses text beside messages. Each passage comes with its column.
pub(super) fn alike(a: (&'static str, &Passage), b: (&'static str, &Passage)) -> Result<(), RowFault> {
    match (a.1, b.1) {
        (Passage::Text(_), Passage::Text(_)) | (Passage::Messages(_), Passage::Messages(_)) => Ok(()),
        _ => Err(RowFault::Mixed { first: a.0, found_first: a.1.noun(), second: b.0, found_second: b.1.noun() }),
    }
}

/// The shared start of both sides of a preference and the rest of each, as TRL's `extract_prompt` cuts them: each
/// side keeps its last message or character at least, and a space before the difference.
pub(super) fn split_prompt([chosen, rejected]: [Passage; 2]) -> (Passage, [Passage; 2]) {
    match (chosen, rejected) {
        (Passage::Messages(mut chosen), Passage::Messages(mut rejected)) => {
            let shared = chosen.iter().zip(&rejected).take_while(|(a, b)| a == b).count();
            let at = shared.min(chosen.len().min(rejected.len()).saturating_sub(1));
            let sides = [chosen.split_off(at), rejected.split_off(at)];
            (Passage::Messages(chosen), sides.map(Passage::Messages))
        }
        (Passage::Text(chosen), Passage::Text(rejected)) => {
            let at = end_of_prompt(&chosen, &rejected);
            (
                Passage::Text(chosen[..at].to_owned()),
                [&chosen[at..], &rejected[at..]].map(|side| Passage::Text(side.to_owned())),
            )
        }
        sides => (Passage::Text(String::new()), sides.into()),
    }
}

fn end_of_prompt(chosen: &str, rejected: &str) -> usize {
    let mut end = 0;
    for ((at, a), b) in chosen.char_indices().zip(rejected.chars()) {
        end = at;
        if a != b {
            return if chosen[..at].ends_with(' ') { at - 1 } else { at };
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(chosen: &str, rejected: &str) -> [String; 3] {
        let sides = [chosen, rejected].map(|side| Passage::Text(side.to_owned()));
        let (prompt, [chosen, rejected]) = split_prompt(sides);
        [prompt, chosen, rejected].map(|passage| match passage {
            Passage::Text(text) => text,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn text_is_split_as_trl_splits_it() {
        assert_eq!(split("The sky is blue.", "The sky is green."), ["The sky is", " blue.", " green."]);
        assert_eq!(split("2+2=4", "2+2=5"), ["2+2=", "4", "5"]);
        assert_eq!(split("é1", "éü"), ["é", "1", "ü"]);
        assert_eq!(split("ab", "abc"), ["a", "b", "bc"]);
        assert_eq!(split("ab", "ab"), ["a", "b", "b"]);
        assert_eq!(split("a", "b"), ["", "a", "b"]);
        assert_eq!(split("", "b"), ["", "", "b"]);
    }

    #[test]
    fn messages_are_split_where_they_differ_and_never_used_up() {
        let chat = |texts: &str| texts.chars().map(|text| Message::new("user", &text.to_string())).collect::<Vec<_>>();
        for (chosen, rejected, expected) in [
            ("abx", "aby", ["ab", "x", "y"]),
            ("abx", "abx", ["ab", "x", "x"]),
            ("ab", "abc", ["a", "b", "bc"]),
            ("x", "y", ["", "x", "y"]),
            ("", "y", ["", "", "y"]),
        ] {
            let (prompt, [chosen, rejected]) =
                split_prompt([chosen, rejected].map(|side| Passage::Messages(chat(side))));
            assert_eq!([prompt, chosen, rejected], expected.map(|side| Passage::Messages(chat(side))));
        }
    }

    #[test]
    fn a_passage_is_empty_without_text_and_calls() {
        let silent = Message::new("assistant", "");
        assert!(Passage::Text(String::new()).is_empty() && Passage::Messages(vec![silent.clone()]).is_empty());
        let calling = silent.with_tool_calls(vec![serde_json::json!({})]);
        assert!(!Passage::Messages(vec![calling]).is_empty() && !Passage::Text(" ".to_owned()).is_empty());
    }
}
