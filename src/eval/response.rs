//! The response of a model to an item.

use super::extraction::extracted;
use super::scoring::Answer;
use super::tasks::Filter;

/// The response of a model to an item.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    /// To a question with choices: an answer for each request.
    Answers(Vec<Answer>),
    /// To an open question: the generated text.
    Text(String),
}

impl Response {
    /// The text that a filter finds in a generated text; `None` if there is none.
    pub fn filtered(&self, filter: Filter) -> Option<String> {
        match self {
            Self::Answers(_) => None,
            Self::Text(text) => Some(extracted(text, filter)),
        }
    }
}
