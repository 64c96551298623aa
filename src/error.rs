//! What every error type shares: the file it is about, its kind, and how text from a file is shown.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Longest excerpt of a name or value that a message shows, in characters.
const SHOWN_CHARS: usize = 200;

/// What kind of failure an error is. The command line derives its exit code from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// An input does not exist, or a server does not provide it.
    NotFound,
    /// An input, an option, or the place for an output breaks a rule.
    Invalid,
    /// The operating system or the network failed.
    Io,
}

/// A fault and the file it was found in. Displays as `"path": fault`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InFile<F> {
    /// The file or directory.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: F,
}

/// What can go wrong with a file, whatever its format.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileFault {
    /// Nothing exists at the path.
    #[error("does not exist")]
    NotFound,
    /// A directory, a pipe or a device where a file should be.
    #[error("is not a regular file")]
    NotAFile,
    /// Something else where a directory should be.
    #[error("is not a directory")]
    NotADirectory,
    /// A name that would lead elsewhere, at least on some systems.
    #[error("has an unsafe name, expected one that every system takes for a plain file name")]
    UnsafeName,
    /// The file was replaced, truncated or written to after it was opened.
    #[error("changed while it was being read")]
    Changed,
    /// The file is larger than any real one of its kind.
    #[error("has {found_bytes} bytes, expected at most {limit_bytes}")]
    TooLarge {
        /// Size of the file.
        found_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// The operating system failed to read or write.
    #[error(transparent)]
    Io(io::Error),
}

impl FileFault {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound => ErrorKind::NotFound,
            Self::NotAFile | Self::NotADirectory | Self::UnsafeName | Self::TooLarge { .. } => ErrorKind::Invalid,
            Self::Changed | Self::Io(_) => ErrorKind::Io,
        }
    }
}

impl From<io::Error> for FileFault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            _ => Self::Io(error),
        }
    }
}

/// A fault of the file system at a path.
pub type FileError = InFile<FileFault>;

impl FileError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        self.fault.kind()
    }

    /// Attributes an error of the operating system to a path, for `map_err`.
    pub(crate) fn io(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        move |error| Self::new(path, error.into())
    }
}

impl<F> InFile<F> {
    /// A fault of the file at `path`.
    pub fn new(path: impl Into<PathBuf>, fault: F) -> Self {
        Self { path: path.into(), fault }
    }

    /// Attributes a fault to a file, for `map_err`.
    pub fn at(path: impl Into<PathBuf>) -> impl FnOnce(F) -> Self {
        let path = path.into();
        |fault| Self { path, fault }
    }
}

impl<F: fmt::Display> fmt::Display for InFile<F> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?}: {}", self.path, self.fault)
    }
}

impl<F: std::error::Error> std::error::Error for InFile<F> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.fault.source()
    }
}

/// The type of a JSON value, in words.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The first names of `count`, for a message.
pub(crate) fn listed(names: &[String], count: usize) -> String {
    let shown: Vec<String> = names.iter().map(|name| quoted(name)).collect();
    let more = if names.len() < count { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

/// A name from a file, in quotes, escaped and truncated: names may be hostile.
pub(crate) fn quoted(name: &str) -> String {
    let shown: String = name.chars().take(SHOWN_CHARS).collect();
    let more = if shown.len() < name.len() { "…" } else { "" };
    format!("{shown:?}{more}")
}

/// A value from a file, without quotes, escaped and truncated.
pub(crate) fn cut(text: &impl ToString) -> String {
    excerpt(&text.to_string(), SHOWN_CHARS, shown_char)
}

/// The start of a text of several lines, escaped as by [`cut`].
pub(crate) fn cut_lines(text: &str, max_chars: usize) -> String {
    excerpt(text, max_chars, |c| if c == '\n' { vec![c] } else { shown_char(c) })
}

fn excerpt(text: &str, max_chars: usize, shown: impl Fn(char) -> Vec<char>) -> String {
    let more = if text.chars().nth(max_chars).is_some() { "…" } else { "" };
    let start: String = text.chars().take(max_chars).flat_map(shown).collect();
    format!("{start}{more}")
}

/// Escapes control and bidirectional characters, which would reach the terminal otherwise.
fn shown_char(c: char) -> Vec<char> {
    if matches!(c, '"' | '\'' | '\\') { vec![c] } else { c.escape_debug().collect() }
}

/// The known name closest to `name`, at most two edits away.
pub(crate) fn closest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let name: String = name.chars().take(40).collect();
    let distances = known.map(|known| (edits(&name, known), known));
    let (distance, known) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= 2 && distance < known.len() / 2).then_some(known)
}

/// Optimal string alignment distance: insertions, deletions, substitutions and swaps of neighbours.
fn edits(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows = vec![(0..=to.len()).collect::<Vec<usize>>()];
    for (i, &a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &b) in to.iter().enumerate() {
            let mut least = (rows[i][j] + usize::from(a != b)).min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a == to[j - 1] && from[i - 1] == b {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_escaped_and_truncated() {
        let shown = quoted(&format!("\u{1b}[31m\n{}", "x".repeat(1000)));
        assert!(shown.starts_with(r#""\u{1b}[31m\nxxx"#) && shown.ends_with('…'), "{shown}");
        assert!(shown.len() < 300 && !shown.contains(['\u{1b}', '\n']));
    }

    #[test]
    fn hostile_values_are_escaped_and_truncated() {
        let shown = cut(&format!("\u{1b}{}", "y".repeat(1000)));
        assert!(shown.starts_with(r"\u{1b}yyy") && shown.ends_with('…'), "{shown}");
        assert!(!shown.contains('\u{1b}'));
    }

    #[test]
    fn a_fault_is_shown_behind_its_file() {
        let error = InFile::at("a/config.json")(std::io::Error::other("no"));
        assert_eq!(error.to_string(), r#""a/config.json": no"#);
    }

    #[test]
    fn absence_is_distinguished_from_failure() {
        let kind = |kind| FileError::io(Path::new("a"))(io::Error::from(kind)).kind();
        assert_eq!(kind(io::ErrorKind::NotFound), ErrorKind::NotFound);
        assert_eq!(kind(io::ErrorKind::PermissionDenied), ErrorKind::Io);
    }

    #[test]
    fn typing_errors_are_recognized_and_other_words_are_not() {
        let known = ["noise_scale", "residual_scale", "dtype"];
        for (written, meant) in [("nosie_scale", "noise_scale"), ("residual_scal", "residual_scale"), ("dype", "dtype")]
        {
            assert_eq!(closest(written, known.into_iter()), Some(meant));
        }
        assert_eq!(closest("weight", known.into_iter()), None);
        assert_eq!(closest("", known.into_iter()), None);
        assert_eq!(edits("abcd", "badc"), 2);
    }
}
