//! The fields of a request, each with an error that names it.

use axum::http::StatusCode;
use serde_json::{Map, Value};

use super::ApiError;
use crate::error::type_name;

/// The fields of a JSON object; null is as good as absent.
#[derive(Debug)]
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    /// The fields of a request's body.
    pub(super) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(other) => {
                let message = format!("the body is {}, expected a JSON object", type_name(&other));
                Err(ApiError::new(StatusCode::BAD_REQUEST, message))
            }
            Err(error) => Err(ApiError::new(StatusCode::BAD_REQUEST, format!("the body is not JSON: {error}"))),
        }
    }

    /// Takes a field.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    pub(super) fn number(&mut self, name: &str) -> Result<Option<f64>, ApiError> {
        self.typed(name, "a number", |value| value.as_f64())
    }

    pub(super) fn bool(&mut self, name: &str) -> Result<bool, ApiError> {
        Ok(self.typed(name, "true or false", |value| value.as_bool())?.unwrap_or(false))
    }

    /// A whole number from `least` to `most`.
    pub(super) fn count(&mut self, name: &str, least: usize, most: usize) -> Result<Option<usize>, ApiError> {
        let expected = format!("a whole number from {least} to {most}");
        self.typed(name, &expected, |value| {
            let number = usize::try_from(value.as_u64()?).ok()?;
            (least..=most).contains(&number).then_some(number)
        })
    }

    /// Any integer, as clients give seeds.
    pub(super) fn seed(&mut self) -> Result<Option<u64>, ApiError> {
        self.typed("seed", "an integer", |value| value.as_u64().or(value.as_i64().map(i64::cast_unsigned)))
    }

    /// One string or several.
    pub(super) fn strings(&mut self, name: &str) -> Result<Vec<String>, ApiError> {
        let strings = self.typed(name, "a string or an array of strings", |value| match value {
            Value::String(one) => Some(vec![one.clone()]),
            Value::Array(several) => several.iter().map(|one| one.as_str().map(str::to_owned)).collect(),
            _ => None,
        })?;
        Ok(strings.unwrap_or_default())
    }

    /// Refuses a field that asks for something that this server does not do, unless it has a value that asks for nothing.
    pub(super) fn refuse(&mut self, name: &str, asks_nothing: impl Fn(&Value) -> bool) -> Result<(), ApiError> {
        match self.take(name) {
            Some(value) if !asks_nothing(&value) => Err(ApiError::field(name, format!("{name} is not supported"))),
            _ => Ok(()),
        }
    }

    fn typed<T>(
        &mut self,
        name: &str,
        expected: &str,
        convert: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match convert(&value) {
            Some(converted) => Ok(Some(converted)),
            None => {
                let found: String = value.to_string().chars().take(80).collect();
                Err(ApiError::field(name, format!("found {name} = {found}, expected {expected}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_field_is_named_with_what_was_expected() {
        let mut fields =
            Fields::parse(br#"{"n": 0, "temperature": "hot", "stop": [1], "seed": -1, "top_p": null}"#).unwrap();
        let error = fields.count("n", 1, 8).unwrap_err();
        assert_eq!((error.param.as_deref(), error.status), (Some("n"), StatusCode::BAD_REQUEST));
        assert_eq!(error.message, "found n = 0, expected a whole number from 1 to 8");
        assert_eq!(fields.number("temperature").unwrap_err().message, "found temperature = \"hot\", expected a number");
        assert!(fields.strings("stop").is_err());
        assert_eq!(fields.seed(), Ok(Some(u64::MAX)));
        assert_eq!(fields.number("top_p"), Ok(None));
        assert!(Fields::parse(b"{").unwrap_err().message.starts_with("the body is not JSON: EOF"));
        assert_eq!(Fields::parse(b"[]").unwrap_err().message, "the body is a list, expected a JSON object");
    }
}
