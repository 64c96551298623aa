//! The mappings of a config, read key by key.

use super::error::{MergeFault, Position};
use super::field_fault::FieldFault;
use super::yaml::{Node, Value};
use crate::error::closest;
use crate::weights::Dtype;

impl Node {
    fn wrong_type<T>(&self, field: &str, expected: &'static str) -> Result<T, MergeFault> {
        self.refuse(FieldFault::WrongType { field: field.to_owned(), found: self.found(), expected })
    }

    /// Refuses a value that mergekit supports and this crate does not.
    pub fn unsupported<T>(&self, field: &str, expected: &'static str) -> Result<T, MergeFault> {
        self.unsupported_like(field, expected, None)
    }

    /// As [`unsupported`](Self::unsupported), with the value that was probably meant.
    pub fn unsupported_like<T>(
        &self,
        field: &str,
        expected: &'static str,
        suggestion: Option<&'static str>,
    ) -> Result<T, MergeFault> {
        self.refuse(FieldFault::Unsupported { field: field.to_owned(), found: self.found(), expected, suggestion })
    }

    pub fn text(&self, field: &str) -> Result<&str, MergeFault> {
        match &self.value {
            Value::Text(text) => Ok(text),
            _ => self.wrong_type(field, "text"),
        }
    }

    /// A whole number of at least 0, in decimal digits, with or without quotes: nothing that one YAML reads as a number and
    /// another as text.
    pub fn integer(&self, field: &str) -> Result<usize, MergeFault> {
        let is_decimal = |raw: &str| {
            !raw.is_empty() && raw.bytes().all(|b| b.is_ascii_digit()) && (raw == "0" || !raw.starts_with('0'))
        };
        match &self.value {
            Value::Plain(raw) | Value::Text(raw) if is_decimal(raw) => match raw.parse() {
                Ok(number) => Ok(number),
                Err(_) => self.wrong_type(field, "a smaller whole number"),
            },
            _ => self.wrong_type(field, "a whole number of at least 0, in digits"),
        }
    }

    /// A finite number, as JSON writes it, or with a sign or without a digit before or after the point; with or without quotes.
    pub fn number(&self, field: &str) -> Result<f64, MergeFault> {
        let is_number = |raw: &str| {
            let digits = raw.trim_start_matches(['+', '-']);
            let integer = digits.split(['.', 'e', 'E']).next().unwrap_or_default();
            digits.bytes().all(|b| b.is_ascii_digit() || b".eE+-".contains(&b))
                && (integer.len() < 2 || !integer.starts_with('0'))
        };
        match &self.value {
            Value::Plain(raw) | Value::Text(raw) if is_number(raw) => match raw.parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(number),
                _ => self.wrong_type(field, "a finite number"),
            },
            _ => self.wrong_type(field, "a finite number"),
        }
    }

    pub fn list(&self, field: &str) -> Result<&[Node], MergeFault> {
        match &self.value {
            Value::List(items) => Ok(items),
            _ => self.wrong_type(field, "a list"),
        }
    }

    /// `float32`, `float16` or `bfloat16`, with or without `torch.`.
    pub fn dtype(&self, field: &str) -> Result<Dtype, MergeFault> {
        const NAMES: [(&str, Dtype); 3] =
            [("float32", Dtype::Float32), ("float16", Dtype::Float16), ("bfloat16", Dtype::Bfloat16)];
        let text = self.text(field)?;
        let name = text.strip_prefix("torch.").unwrap_or(text);
        if let Some((_, dtype)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(*dtype);
        }
        let suggestion = closest(name, NAMES.iter().map(|(known, _)| *known));
        self.unsupported_like(field, "float32, float16 or bfloat16", suggestion)
    }

    /// This mapping, called `inside` in messages, whose keys are all `known`.
    pub fn fields(&self, inside: &str, known: &[&'static str]) -> Result<Fields<'_>, MergeFault> {
        self.fields_but(inside, known, |_, _| false)
    }

    /// As [`fields`](Self::fields), without unknown keys for which `is_ignored` is true.
    pub fn fields_but(
        &self,
        inside: &str,
        known: &[&'static str],
        mut is_ignored: impl FnMut(&Node, &str) -> bool,
    ) -> Result<Fields<'_>, MergeFault> {
        let Value::Mapping(pairs) = &self.value else { return self.wrong_type(inside, "a mapping") };
        let mut fields = Fields { at: self.at, inside: inside.to_owned(), pairs: Vec::with_capacity(pairs.len()) };
        for (key, value) in pairs {
            let name = key.text("a key")?;
            if known.contains(&name) {
                fields.pairs.push((name, value));
            } else if !is_ignored(key, name) {
                let suggestion = closest(name, known.iter().copied());
                return key.refuse(FieldFault::UnknownKey {
                    key: name.to_owned(),
                    inside: inside.to_owned(),
                    suggestion,
                });
            }
        }
        Ok(fields)
    }
}

/// A mapping whose keys are all known.
pub(super) struct Fields<'n> {
    pub at: Position,
    inside: String,
    pairs: Vec<(&'n str, &'n Node)>,
}

impl<'n> Fields<'n> {
    /// The value of a key, unless it is absent or `null`.
    pub fn get(&self, key: &str) -> Option<&'n Node> {
        let (_, node) = self.pairs.iter().find(|(name, _)| *name == key)?;
        (node.value != Value::Null).then_some(*node)
    }

    pub fn required(&self, key: &'static str) -> Result<&'n Node, MergeFault> {
        let missing = || FieldFault::MissingKey { key, inside: self.inside.clone() };
        self.get(key).ok_or_else(|| MergeFault { at: self.at, rule: missing().into() })
    }
}
