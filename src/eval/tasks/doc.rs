//! Items of benchmarks.

use serde_json::{Map, Value};

use crate::error::type_name;
use crate::eval::error::ItemFault;

/// An item: its fields, as a log of samples has them, and the question that they make.
#[derive(Debug, Clone, PartialEq)]
pub struct Doc {
    /// The fields of its row, and those that a task adds.
    pub fields: Map<String, Value>,
    /// The question.
    pub question: Question,
}

/// The question to a model.
#[derive(Debug, Clone, PartialEq)]
pub enum Question {
    /// Which of several continuations follows one text.
    Choices {
        /// The text.
        text: String,
        /// The continuations.
        choices: Vec<String>,
        /// The right ones.
        key: Key,
    },
    /// After which of several texts one continuation follows (Trinh and Le, 2018, arXiv:1806.02847).
    Contexts {
        /// The texts.
        contexts: Vec<String>,
        /// The continuation.
        continuation: String,
        /// The right text.
        gold: usize,
    },
    /// A text that the model continues freely.
    Open {
        /// The text.
        text: String,
        /// The reference answer.
        answer: String,
    },
}

/// The right choices of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// One, by its index.
    One(usize),
    /// Any number of them: whether each is true.
    Many(Vec<bool>),
}

impl Question {
    /// The target that a log of samples shows, as Python prints it.
    pub fn target(&self) -> String {
        match self {
            Self::Choices { key: Key::One(gold), .. } => gold.to_string(),
            // lm-eval's tasks with several right choices name the first as the target.
            Self::Choices { key: Key::Many(_), .. } => "0".to_owned(),
            Self::Contexts { continuation, .. } => continuation.clone(),
            Self::Open { answer, .. } => answer.clone(),
        }
    }

    /// Question and answer as an example in a prompt.
    pub fn example(&self) -> (&str, &str) {
        match self {
            Self::Choices { text, choices, key } => {
                let gold = if let Key::One(gold) = key { *gold } else { 0 };
                (text, &choices[gold])
            }
            Self::Contexts { contexts, continuation, gold } => (&contexts[*gold], continuation),
            Self::Open { text, answer } => (text, answer),
        }
    }
}

/// A field that must be text.
pub fn text<'a>(fields: &'a Map<String, Value>, field: &'static str) -> Result<&'a str, ItemFault> {
    let value = fields.get(field).ok_or(ItemFault::Missing { field })?;
    value.as_str().ok_or_else(|| wrong(field, value, "text"))
}

/// A field that must be a list of texts.
pub fn texts(fields: &Map<String, Value>, field: &'static str) -> Result<Vec<String>, ItemFault> {
    let value = fields.get(field).ok_or(ItemFault::Missing { field })?;
    let list = value.as_array().and_then(|list| list.iter().map(|item| item.as_str().map(str::to_owned)).collect());
    list.ok_or_else(|| wrong(field, value, "a list of texts"))
}

/// A field that must be an object.
pub fn object<'a>(fields: &'a Map<String, Value>, field: &'static str) -> Result<&'a Map<String, Value>, ItemFault> {
    let value = fields.get(field).ok_or(ItemFault::Missing { field })?;
    value.as_object().ok_or_else(|| wrong(field, value, "an object"))
}

/// A field that must be a whole number, also written as text.
pub fn whole(fields: &Map<String, Value>, field: &'static str) -> Result<usize, ItemFault> {
    let value = fields.get(field).ok_or(ItemFault::Missing { field })?;
    let number = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok());
    number.map(|number| number as usize).ok_or_else(|| ItemFault::Type {
        field,
        found: value.to_string(),
        expected: "a whole number",
    })
}

/// Checks that the right answer is a choice.
pub fn checked(choices: &[String], gold: usize, field: &'static str) -> Result<(), ItemFault> {
    if gold >= choices.len() {
        return Err(ItemFault::Answer { field, found: gold.to_string(), num_choices: choices.len() });
    }
    Ok(())
}

fn wrong(field: &'static str, found: &Value, expected: &'static str) -> ItemFault {
    ItemFault::Type { field, found: type_name(found).to_owned(), expected }
}
