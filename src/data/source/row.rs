//! A row of a file of data.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::error::RowFault;
use super::number::RowNumber;
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
