//! Jinja as transformers sets it up for chat templates.

use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State};
use minijinja_contrib::pycompat;

use super::{date, generation, json, printing};
use crate::python;

/// Name of the only template.
pub(super) const NAME: &str = "chat template";
/// Instruction budget of a template; each also allows 64 bytes of text.
pub(super) const FUEL: u64 = 4_000_000;
/// Calls within calls.
const MAX_RECURSION: usize = 100;

/// Message passed to `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refusal(pub String);

/// An environment with the template in it. `time` is what `strftime_now` says; the time of the call if there is none.
pub(super) fn environment(source: String, time: Option<SystemTime>) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    environment.set_syntax(syntax);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(MAX_RECURSION);
    environment.set_formatter(printing::print);
    environment.set_unknown_method_callback(method);
    environment.add_filter("string", printing::string);
    environment.add_filter(generation::FILTER, generation::mark);
    environment.add_filter("tojson", json::tojson);
    environment.add_filter("trim", |value: &Value, characters: Option<&str>| -> Result<Value, Error> {
        let text = printing::string(value)?;
        let text = text.as_str().unwrap_or_default();
        let stripped = match characters {
            Some(characters) => text.trim_matches(|c: char| characters.contains(c)),
            None => python::strip(text),
        };
        Ok(stripped.into())
    });
    // In Python, strings and dictionaries are sequences, and nothing iterates over None.
    environment.add_test("sequence", |value: &Value| {
        value.is_undefined() || matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
    });
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_function("raise_exception", |message: &Value| -> Result<Value, Error> {
        let refusal = Refusal(message.to_string());
        Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(refusal))
    });
    environment.add_function("strftime_now", move |format: &str| {
        date::strftime(time.unwrap_or_else(SystemTime::now), format).map_err(|directive| {
            let text = format!("strftime_now does not know the directive {directive:?}");
            Error::new(ErrorKind::InvalidOperation, text)
        })
    });
    environment.add_template_owned(NAME, source)?;
    Ok(environment)
}

/// Methods of Python's strings, lists and dictionaries.
fn method(state: &mut State, value: &Value, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else { return pycompat::unknown_method_callback(state, value, method, arguments) };
    match (method, arguments) {
        ("strip", []) => Ok(python::strip(text).into()),
        ("lstrip", []) => Ok(python::lstrip(text).into()),
        ("rstrip", []) => Ok(python::rstrip(text).into()),
        ("removeprefix", [prefix]) => {
            Ok(prefix.as_str().and_then(|prefix| text.strip_prefix(prefix)).unwrap_or(text).into())
        }
        ("removesuffix", [suffix]) => {
            Ok(suffix.as_str().and_then(|suffix| text.strip_suffix(suffix)).unwrap_or(text).into())
        }
        _ => pycompat::unknown_method_callback(state, value, method, arguments),
    }
}
