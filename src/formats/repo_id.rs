//! Ids of repositories on the Hub: `org/name`.

/// Limit on the characters of `org/name`.
const MAX_CHARS: usize = 96;

/// The rule of the Hub that an id breaks, if any.
pub(crate) fn broken_rule(id: &str) -> Option<&'static str> {
    let Some((org, name)) = id.split_once('/') else { return Some("it has no `/`") };
    let long = (id.len() > MAX_CHARS).then_some("org/name has more than 96 characters");
    rule_of_part(org).or_else(|| rule_of_part(name)).or(long)
}

/// The rule that `org` or `name` breaks.
fn rule_of_part(part: &str) -> Option<&'static str> {
    let edge = |c: char| c == '-' || c == '.';
    if part.is_empty() {
        Some("a part of org/name is empty")
    } else if !part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
        Some("org/name has a character other than A-Z, a-z, 0-9, `-`, `_` and `.`")
    } else if part.starts_with(edge) || part.ends_with(edge) {
        Some("a part of org/name starts or ends with `-` or `.`")
    } else if part.contains("--") || part.contains("..") {
        Some("org/name has `--` or `..`")
    } else if part.ends_with(".git") {
        Some("org/name ends with .git")
    } else {
        None
    }
}
