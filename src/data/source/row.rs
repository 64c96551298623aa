//! A row: its fields, and where it is in its file.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::error::RowFault;
use crate::error::type_name;

/// Longest row in bytes: longer than any real document, short enough to bound memory.
pub(super) const MAX_ROW_BYTES: u64 = 64 << 20;

/// A row of a file of data.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Where it is in its file.
    pub number: RowNumber,
    /// Its fields, in the order of the file.
    pub fields: Map<String, Value>,
}

/// Where a row is in its file. Displays as `line 3` or `row 3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowNumber {
    /// The line where it starts, from 1, in a `.txt`, `.jsonl` or `.csv` file.
    Line(u64),
    /// Its place among the rows, from 1, of a `.json` or `.parquet` file.
    Row(u64),
}

impl fmt::Display for RowNumber {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Line(number) => write!(f, "line {number}"),
            Self::Row(number) => write!(f, "row {number}"),
        }
    }
}

impl Row {
    /// Takes a field that must be a string.
    ///
    /// # Errors
    /// [`RowFault::MissingField`], [`RowFault::NotAString`].
    pub fn take_text(&mut self, field: &str) -> Result<String, RowFault> {
        match self.fields.get_mut(field).map(Value::take) {
            Some(Value::String(text)) => Ok(text),
            Some(value) => Err(RowFault::NotAString { field: field.to_owned(), found: type_name(&value) }),
            None => {
                let found = self.fields.keys().cloned().collect();
                Err(RowFault::MissingField { found, expected: field.to_owned() })
            }
        }
    }
}

/// The fields of a JSON object. A key that occurs twice is refused: one of its values would be lost.
pub(super) struct Fields(pub Map<String, Value>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Unique;
        impl<'de> Visitor<'de> for Unique {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Fields, A::Error> {
                let mut fields = Map::new();
                while let Some(key) = access.next_key::<String>()? {
                    if fields.contains_key(&key) {
                        return Err(A::Error::custom(format_args!("duplicate field {}", crate::error::quoted(&key))));
                    }
                    fields.insert(key, access.next_value()?);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Unique)
    }
}
