//! The fields of a request, each with an error that names it.

use axum::http::StatusCode;
use serde_json::{Map, Value};

use super::ApiError;
use crate::error::{closest, cut, quoted, type_name};

/// Fields of OpenAI's API and of other servers that change no answer here.
const WITHOUT_EFFECT: [&str; 11] = [
    "model",
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
    "request_id",
    "priority",
];
/// Fields whose only value, as JSON, is that for which other servers do what this one does.
const DEFAULTS: [(&str, &str); 10] = [
    ("response_format", r#"{"type":"text"}"#),
    ("tool_choice", r#""none""#),
    ("modalities", r#"["text"]"#),
    ("add_generation_prompt", "true"),
    ("skip_special_tokens", "true"),
    // The default of others depends on the route, so that only the absence of the field is the same everywhere.
    ("add_special_tokens", "null"),
    ("parse_special", "true"),
    ("spaces_between_special_tokens", "true"),
    ("min_tokens", "0"),
    ("n_probs", "0"),
];

/// The fields of a JSON object; null is as good as absent.
#[derive(Debug)]
pub(super) struct Fields {
    fields: Map<String, Value>,
    /// The names that were asked for.
    known: Vec<String>,
}

impl Fields {
    /// The fields of a request's body.
    pub(super) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self { fields, known: Vec::new() }),
            Ok(other) => {
                let message = format!("the body is {}, expected a JSON object", type_name(&other));
                Err(ApiError::new(StatusCode::BAD_REQUEST, message))
            }
            Err(error) => Err(ApiError::new(StatusCode::BAD_REQUEST, format!("the body is not JSON: {error}"))),
        }
    }

    /// Takes a field.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.known.push(name.to_owned());
        self.fields.remove(name).filter(|value| !value.is_null())
    }

    pub(super) fn number(&mut self, name: &str) -> Result<Option<f64>, ApiError> {
        self.typed(name, "a number", |value| value.as_f64())
    }

    pub(super) fn bool(&mut self, name: &str) -> Result<bool, ApiError> {
        self.bool_or(name, false)
    }

    /// True or false, or `absent` without the field.
    pub(super) fn bool_or(&mut self, name: &str, absent: bool) -> Result<bool, ApiError> {
        Ok(self.typed(name, "true or false", |value| value.as_bool())?.unwrap_or(absent))
    }

    /// A whole number from `least` to `most`.
    pub(super) fn count(&mut self, name: &str, least: usize, most: usize) -> Result<Option<usize>, ApiError> {
        let expected = format!("a whole number from {least} to {most}");
        self.typed(name, &expected, |value| {
            let number = usize::try_from(value.as_u64()?).ok()?;
            (least..=most).contains(&number).then_some(number)
        })
    }

    /// As [`count`](Self::count); −1, with which other servers ask for no limit, is as good as absent.
    pub(super) fn limit(&mut self, name: &str, most: usize) -> Result<Option<usize>, ApiError> {
        self.forget(name, -1);
        self.count(name, 0, most)
    }

    /// As [`count`](Self::count); false is as good as absent.
    pub(super) fn count_or_false(&mut self, name: &str, most: usize) -> Result<Option<usize>, ApiError> {
        self.forget(name, false);
        self.count(name, 0, most)
    }

    /// Removes a field with this value.
    fn forget<T>(&mut self, name: &str, value: T)
    where
        Value: PartialEq<T>,
    {
        if self.fields.get(name).is_some_and(|found| *found == value) {
            self.fields.remove(name);
        }
    }

    /// Any integer, as clients give seeds; −1, with which other servers ask for a random one, is as good as absent.
    pub(super) fn seed(&mut self) -> Result<Option<u64>, ApiError> {
        let seed =
            self.typed("seed", "an integer", |value| value.as_u64().or(value.as_i64().map(i64::cast_unsigned)))?;
        Ok(seed.filter(|seed| *seed != u64::MAX))
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

    /// Refuses a field unless it has a value that asks for nothing beyond what this server does.
    pub(super) fn refuse(&mut self, name: &str, asks_nothing: impl Fn(&Value) -> bool) -> Result<(), ApiError> {
        match self.take(name) {
            Some(value) if !asks_nothing(&value) => Err(not_supported(name)),
            _ => Ok(()),
        }
    }

    /// Refuses a field that was not taken, unless no value of it changes an answer, or this one asks for nothing.
    pub(super) fn finish(mut self) -> Result<(), ApiError> {
        for (name, default) in DEFAULTS {
            self.refuse(name, |value| serde_json::from_str::<Value>(default).is_ok_and(|default| *value == default))?;
        }
        let asks = |(name, value): &(&String, &Value)| !WITHOUT_EFFECT.contains(&name.as_str()) && !is_nothing(value);
        let known = || self.known.iter().map(String::as_str).chain(WITHOUT_EFFECT);
        let refused = |name: &str| match closest(name, known()) {
            Some(meant) => ApiError::field(name, format!("unknown field `{}`; did you mean `{meant}`?", cut(&name))),
            None => not_supported(name),
        };
        self.fields.iter().find(asks).map_or(Ok(()), |(name, _)| Err(refused(name)))
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

/// Whether a value of an unknown field asks for nothing.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(is_set) => !is_set,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(keys) => keys.is_empty(),
        Value::Number(_) => false,
    }
}

fn not_supported(name: &str) -> ApiError {
    ApiError::field(name, format!("{} is not supported", quoted(name)))
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
        assert_eq!(fields.seed(), Ok(None));
        assert_eq!(Fields::parse(br#"{"seed": -2}"#).unwrap().seed(), Ok(Some(u64::MAX - 1)));
        assert_eq!(Fields::parse(br#"{"top_k": -1}"#).unwrap().limit("top_k", 9), Ok(None));
        assert!(Fields::parse(br#"{"top_k": -2}"#).unwrap().limit("top_k", 9).is_err());
        assert_eq!(fields.number("top_p"), Ok(None));
        assert_eq!(fields.take("stop"), None);
        assert_eq!(fields.finish(), Ok(()), "all are taken");
        assert!(Fields::parse(b"{").unwrap_err().message.starts_with("the body is not JSON: EOF"));
        assert_eq!(Fields::parse(b"[]").unwrap_err().message, "the body is a list, expected a JSON object");
    }

    #[test]
    fn a_misspelt_field_is_refused_with_the_one_that_was_probably_meant() {
        for (body, message) in [
            (r#"{"max_token": 5}"#, "unknown field `max_token`; did you mean `max_tokens`?"),
            (
                r#"{"add_generation_promt": true}"#,
                "unknown field `add_generation_promt`; did you mean `add_generation_prompt`?",
            ),
            (r#"{"modle": "tiny"}"#, "unknown field `modle`; did you mean `model`?"),
            (r#"{"max_length": 5}"#, "\"max_length\" is not supported"),
        ] {
            let mut fields = Fields::parse(body.as_bytes()).unwrap();
            assert_eq!(fields.limit("max_tokens", 9), Ok(None));
            let error = fields.finish().unwrap_err();
            assert_eq!((error.message.as_str(), error.status), (message, StatusCode::BAD_REQUEST));
            assert!(error.param.is_some_and(|param| body.contains(&param)));
        }
    }

    #[test]
    fn a_field_that_asks_for_more_is_refused_by_its_name() {
        let finish = |body: &str| Fields::parse(body.as_bytes()).unwrap().finish();
        for ignored in [
            r#"{"model": "any", "user": "me", "metadata": {"a": "b"}}"#,
            r#"{"logit_bias": {}, "suffix": "", "tools": [], "grammar": null, "use_beam_search": false}"#,
            r#"{"response_format": {"type": "text"}, "tool_choice": "none", "skip_special_tokens": true, "min_tokens": 0}"#,
        ] {
            assert_eq!(finish(ignored), Ok(()), "{ignored}");
        }
        for (refused, name) in [
            (r#"{"max_token": 5}"#, "max_token"),
            (r#"{"logit_bias": {"5": 1}}"#, "logit_bias"),
            (r#"{"response_format": {"type": "json_object"}}"#, "response_format"),
            (r#"{"skip_special_tokens": false}"#, "skip_special_tokens"),
            (r#"{"add_special_tokens": false}"#, "add_special_tokens"),
            (r#"{"parse_special": false}"#, "parse_special"),
            (r#"{"mirostat": 2}"#, "mirostat"),
        ] {
            let error = finish(refused).unwrap_err();
            assert_eq!((error.param.as_deref(), error.status), (Some(name), StatusCode::BAD_REQUEST));
            assert_eq!(error.message, format!("{name:?} is not supported"));
        }
    }
}
