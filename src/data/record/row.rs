//! A row of a file, from which columns are taken one by one.

use serde_json::{Map, Value};

use super::fault::RowFault;
use super::format::RecordFormat;
use super::messages::messages;
use super::passage::{Passage, alike};
use crate::error::type_name;
use crate::tokenizer::Message;

pub(super) struct Row {
    columns: Map<String, Value>,
    /// Columns whose values were taken.
    taken: Vec<&'static str>,
    format: RecordFormat,
}

impl Row {
    pub fn new(columns: Map<String, Value>, format: RecordFormat) -> Self {
        Self { columns, taken: Vec::new(), format }
    }

    fn take(&mut self, column: &'static str) -> Result<Value, RowFault> {
        self.take_optional(column).ok_or_else(|| {
            let had_value = |(name, value): &(&String, &Value)| !value.is_null() || self.taken.contains(&name.as_str());
            let found = self.columns.iter().filter(had_value).map(|(name, _)| name.clone()).collect();
            RowFault::Missing { column, found, format: self.format }
        })
    }

    fn take_optional(&mut self, column: &'static str) -> Option<Value> {
        let value = self.columns.get_mut(column).map(Value::take).filter(|value| !value.is_null())?;
        self.taken.push(column);
        Some(value)
    }

    pub fn text(&mut self, column: &'static str) -> Result<String, RowFault> {
        match self.take(column)? {
            Value::String(text) => Ok(text),
            other => Err(RowFault::WrongType { column, found: type_name(&other), expected: "a string" }),
        }
    }

    /// Empty if the column is missing.
    pub fn optional_text(&mut self, column: &'static str) -> Result<String, RowFault> {
        match self.columns.get(column) {
            None | Some(Value::Null) => Ok(String::new()),
            Some(_) => self.text(column),
        }
    }

    pub fn messages(&mut self, column: &'static str) -> Result<Vec<Message>, RowFault> {
        match self.passage(column)? {
            Passage::Messages(messages) => Ok(messages),
            Passage::Text(_) => Err(RowFault::WrongType { column, found: "a string", expected: "a list of messages" }),
        }
    }

    /// A string, messages, or one message that stands for a list of one.
    pub fn passage(&mut self, column: &'static str) -> Result<Passage, RowFault> {
        match self.take(column)? {
            Value::String(text) => Ok(Passage::Text(text)),
            Value::Array(items) => messages(column, items).map(Passage::Messages),
            message @ Value::Object(_) => messages(column, vec![message]).map(Passage::Messages),
            other => {
                let expected = "a string or a list of messages";
                Err(RowFault::WrongType { column, found: type_name(&other), expected })
            }
        }
    }

    /// Two passages that must be alike.
    pub fn passages(&mut self, [a, b]: [&'static str; 2]) -> Result<[Passage; 2], RowFault> {
        let passages = [self.passage(a)?, self.passage(b)?];
        alike((a, &passages[0]), (b, &passages[1]))?;
        Ok(passages)
    }

    /// The tools that a chat may call: a list, or a string with the list in JSON.
    pub fn tools(&mut self) -> Result<Vec<Value>, RowFault> {
        let refused = |found| RowFault::WrongType { column: "tools", found, expected: "a list, or one in JSON" };
        let tools = match self.take_optional("tools") {
            None => return Ok(Vec::new()),
            Some(Value::String(text)) if text.trim().is_empty() => return Ok(Vec::new()),
            Some(Value::String(text)) => serde_json::from_str(&text).map_err(|_| refused("a string"))?,
            Some(tools) => tools,
        };
        match tools {
            Value::Array(tools) => Ok(tools),
            Value::Null => Ok(Vec::new()),
            other => Err(refused(type_name(&other))),
        }
    }
}
