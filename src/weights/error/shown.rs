//! Names and values of a file as messages show them: escaped, and cut.

use crate::weights::TensorId;
use crate::weights::hf::{hf_name, tensor_of_hf_name};

/// Characters of a name that a message shows.
const SHOWN_CHARS: usize = 200;

/// A name in quotes.
pub(in crate::weights) fn quoted(name: &str) -> String {
    let shown: String = name.chars().take(SHOWN_CHARS).collect();
    let more = if shown.len() < name.len() { "…" } else { "" };
    format!("{shown:?}{more}")
}

/// A value as it is.
pub(in crate::weights) fn cut(text: &impl ToString) -> String {
    let text = text.to_string();
    let shown: String = text.chars().take(SHOWN_CHARS).flat_map(shown_char).collect();
    let more = if text.chars().nth(SHOWN_CHARS).is_some() { "…" } else { "" };
    format!("{shown}{more}")
}

/// After which tensor a file is cut short.
pub(super) fn cut_after(complete: &Option<String>) -> String {
    complete.as_ref().map_or_else(|| "in its first tensor".to_owned(), |name| format!("after tensor {}", quoted(name)))
}

/// The first names of `count`.
pub(super) fn listed(names: &[String], count: usize) -> String {
    let shown: Vec<String> = names.iter().map(|name| quoted(name)).collect();
    let more = if names.len() < count { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

/// What would do in the place of a missing head.
pub(super) fn or_tied(name: &str) -> &'static str {
    if name == hf_name(TensorId::LmHead) { " or tie_word_embeddings true" } else { "" }
}

/// The keys of the config that a shape is made of.
pub(super) fn axes(name: &str) -> String {
    tensor_of_hf_name(name).map_or_else(String::new, |id| format!(", which is {}", id.axes()))
}

/// Neither control characters nor those that turn the direction of writing reach a terminal.
fn shown_char(c: char) -> Vec<char> {
    let escaped: Vec<char> = c.escape_debug().collect();
    if matches!(c, '"' | '\'' | '\\') { vec![c] } else { escaped }
}
