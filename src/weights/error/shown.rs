//! Parts of messages about weights.

use crate::error::quoted;
use crate::weights::TensorId;

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
    if name == TensorId::LmHead.to_string() { " or tie_word_embeddings true" } else { "" }
}

/// The keys of the config that a shape is made of.
pub(super) fn axes(name: &str) -> String {
    name.parse::<TensorId>().map_or_else(|_| String::new(), |id| format!(", which is {}", id.axes()))
}
