//! Recognizing the format of a file from its columns.

use std::fmt;

use serde_json::{Map, Value};

use crate::error::listed;

/// Columns that a message lists.
const SHOWN: usize = 12;

/// How the rows of a file state training examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordFormat {
    /// `text`.
    Text,
    /// `prompt` and `completion`, each text or messages.
    PromptCompletion,
    /// `messages`.
    Messages,
    /// `prompt`, `chosen` and `rejected`, each text or messages.
    Preference,
    /// `chosen` and `rejected`, which begin alike: with the prompt.
    ImplicitPrompt,
    /// `instruction`, perhaps `input`, and `output`.
    Alpaca,
    /// `conversations`: messages with the keys `from` and `value`, or `role` and `content`.
    ShareGpt,
    /// `conversations`, `chosen` and `rejected`.
    ShareGptPreference,
}

impl RecordFormat {
    /// All formats. One that has the columns of another among its own comes first.
    pub const ALL: [Self; 8] = [
        Self::ShareGptPreference,
        Self::Preference,
        Self::ImplicitPrompt,
        Self::PromptCompletion,
        Self::Messages,
        Self::ShareGpt,
        Self::Alpaca,
        Self::Text,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::PromptCompletion => "prompt and completion",
            Self::Messages => "messages",
            Self::Preference => "preference",
            Self::ImplicitPrompt => "preference with implicit prompt",
            Self::Alpaca => "Alpaca",
            Self::ShareGpt => "ShareGPT",
            Self::ShareGptPreference => "ShareGPT preference",
        }
    }

    /// Its columns. Of Alpaca's, `input` may be missing; all formats with messages may have `tools` besides.
    pub fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Text => &["text"],
            Self::PromptCompletion => &["prompt", "completion"],
            Self::Messages => &["messages"],
            Self::Preference => &["prompt", "chosen", "rejected"],
            Self::ImplicitPrompt => &["chosen", "rejected"],
            Self::Alpaca => &["instruction", "input", "output"],
            Self::ShareGpt => &["conversations"],
            Self::ShareGptPreference => &["conversations", "chosen", "rejected"],
        }
    }

    /// Whether its records are preferences.
    pub fn is_preference(self) -> bool {
        matches!(self, Self::Preference | Self::ImplicitPrompt | Self::ShareGptPreference)
    }

    /// The format of a file whose first rows are these: the first of [`ALL`](Self::ALL) whose columns they have, taken
    /// together. A column is there if one of the rows has a value in it that is not null.
    ///
    /// # Errors
    /// If they have the columns of no format.
    pub fn recognize<'a>(rows: impl IntoIterator<Item = &'a Map<String, Value>>) -> Result<Self, UnknownFormat> {
        let mut found: Vec<&str> = Vec::new();
        for (key, value) in rows.into_iter().flatten() {
            if !value.is_null() && !found.contains(&key.as_str()) {
                found.push(key);
            }
        }
        let has_all = |format: &Self| {
            let mut required = format.columns().iter().filter(|column| **column != "input");
            required.all(|column| found.contains(column))
        };
        let unknown = || UnknownFormat { found: found.iter().map(|key| (*key).to_owned()).collect() };
        Self::ALL.into_iter().find(has_all).ok_or_else(unknown)
    }
}

impl fmt::Display for RecordFormat {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.columns().join(", "))
    }
}

/// The columns of the first rows are those of no format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("found the columns [{}], expected those of one of: {}", listed(&.found[..SHOWN.min(.found.len())], .found.len()), formats())]
pub struct UnknownFormat {
    /// The columns.
    pub found: Vec<String>,
}

fn formats() -> String {
    RecordFormat::ALL.map(|format| format.to_string()).join("; ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_columns_of_several_rows_count_together() {
        let rows = [json!({"prompt": "a", "completion": null}), json!({"completion": "b"})];
        let rows = rows.iter().map(|row| row.as_object().unwrap());
        assert_eq!(RecordFormat::recognize(rows.clone()), Ok(RecordFormat::PromptCompletion));
        assert!(RecordFormat::recognize(rows.take(1)).is_err(), "a column of nulls is none");
    }

    #[test]
    fn unknown_columns_are_listed_with_those_that_are_known() {
        let row = json!({"question": "a", "answer": "b"});
        let said = RecordFormat::recognize([row.as_object().unwrap()]).unwrap_err().to_string();
        assert!(said.starts_with(r#"found the columns ["question", "answer"], expected those of one of: "#), "{said}");
        assert!(said.ends_with("Alpaca (instruction, input, output); text (text)"), "{said}");
    }

    #[test]
    fn formats_with_the_columns_of_another_come_first() {
        for (place, format) in RecordFormat::ALL.iter().enumerate() {
            for later in &RecordFormat::ALL[place + 1..] {
                let all_there = format.columns().iter().all(|column| later.columns().contains(column));
                assert!(!all_there, "{format} hides {later}");
            }
        }
    }
}
