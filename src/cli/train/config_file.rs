//! Files of options for `--config`: YAML with the names of options, or with those of TRL's configs.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_saphyr::Spanned;

use super::options::{Options, Words};
use super::trl::{self, BASE, Reading};
use crate::cli::failure::Failure;
use crate::error::{closest, cut, quoted};
use crate::output::disk::disk;
use crate::output::read::read_bounded;

/// Cap on the size of a file of options.
const LIMIT_BYTES: u64 = 1 << 20;
/// Keys whose value is a mapping of further keys.
const NESTED: [&str; 1] = ["lr-scheduler-kwargs"];

/// A file of options.
#[derive(Debug)]
pub(super) struct ConfigFile {
    path: String,
    entries: Vec<Entry>,
}

/// A key as it is written, its line, and its value.
#[derive(Debug, Clone)]
struct Entry {
    key: String,
    line: u64,
    value: Value,
}

impl Entry {
    /// The key with dashes, as options have them.
    fn name(&self) -> String {
        self.key.replace('_', "-")
    }
}

impl ConfigFile {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read or is not a mapping.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let text = read_bounded(&*disk(), path, LIMIT_BYTES)?;
        let Entries(entries) = serde_saphyr::from_str(&String::from_utf8_lossy(&text))
            .map_err(|error| Failure::invalid(format_args!("{path:?}: {error}; expected a mapping of options")))?;
        let mut flat = Vec::new();
        for Entry { key, line, value } in entries {
            match value {
                Value::Object(nested) if NESTED.contains(&key.replace('_', "-").as_str()) => {
                    flat.extend(nested.into_iter().map(|(key, value)| Entry { key, line, value }));
                }
                value => flat.push(Entry { key, line, value }),
            }
        }
        Ok(Self { path: format!("{path:?}"), entries: flat })
    }

    /// The options that `given` does not have.
    ///
    /// # Errors
    /// All keys that are no options, and values of TRL's keys that ask for something else.
    pub(super) fn words(&self, options: Options<'_>, given: &[OsString]) -> Result<Words, Failure> {
        let mut found = Words::default();
        let mut refused = Vec::new();
        for entry in &self.entries {
            if let Err(reason) = self.add(entry, options, given, &mut found) {
                refused.push(format!("\n  line {}: {}: {reason}", entry.line, cut(&entry.key)));
            }
        }
        match refused.len() {
            0 => Ok(found),
            count => Err(Failure::invalid(format_args!(
                "{}: found {count} key{} that {} does not support:{}",
                self.path,
                if count == 1 { "" } else { "s" },
                options.command.get_name(),
                refused.concat()
            ))),
        }
    }

    fn add(&self, entry: &Entry, options: Options<'_>, given: &[OsString], found: &mut Words) -> Result<(), String> {
        let name = entry.name();
        let reading = if options.find(&name).is_some() { None } else { options.trl(&name) };
        let option = match reading {
            Some(Reading::Renamed(option)) => option,
            _ => &name,
        };
        if matches!(reading, Some(Reading::NoEffect { .. })) {
            found.unused.push(entry.key.clone());
            return Ok(());
        }
        let (values, arg) = (values(&entry.value)?, options.find(option));
        match (reading, arg) {
            (Some(Reading::Only(accepted)), _) => {
                values.iter().try_for_each(|value| trl::check(accepted, value))?;
                found.unused.extend((!values.is_empty()).then(|| entry.key.clone()));
            }
            (Some(Reading::Renamed(BASE)), _) => found.base = values.first().map(OsString::from),
            (_, Some(arg)) if !options.is_given(arg, given) => {
                let kept = values.iter().filter(|value| !trl::is_default(option, value));
                found.options.extend(kept.filter_map(|value| word(arg, option, value)));
            }
            (_, Some(_)) => {}
            (_, None) => return Err(unknown(options, &name)),
        }
        Ok(())
    }

    /// The failure with the line of the file whose value the parser refused; `None` if the value is from the command line.
    pub(super) fn blame(&self, error: &clap::Error, options: Options<'_>, given: &[OsString]) -> Option<Failure> {
        let text = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.as_str()),
            _ => None,
        };
        let refused = text(ContextKind::InvalidArg)?.split_whitespace().next()?;
        let arg = options.find(refused.trim_start_matches('-').split('=').next()?)?;
        let sets_it = |entry: &&Entry| match options.trl(&entry.name()) {
            Some(Reading::Renamed(option)) => option == arg.get_id().as_str().replace('_', "-"),
            _ => options.find(&entry.name()).is_some_and(|found| found.get_id() == arg.get_id()),
        };
        let entry = self.entries.iter().rev().find(sets_it).filter(|_| !options.is_given(arg, given))?;
        let expected = match error.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(values)) if !values.is_empty() => {
                format!("expected one of {}", values.join(", "))
            }
            _ => std::error::Error::source(error).map_or_else(|| first_line(error), ToString::to_string),
        };
        let found = text(ContextKind::InvalidValue).map(|value| format!("found {}, ", quoted(value)));
        let found = found.filter(|_| error.kind() == ErrorKind::InvalidValue).unwrap_or_default();
        Some(Failure::invalid(format_args!(
            "{}, line {}: {}: {found}{expected}",
            self.path,
            entry.line,
            cut(&entry.key)
        )))
    }
}

/// The first line of a message of the parser, without `error: `.
fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// The values of an entry as text: none of `null`, several of a list.
fn values(value: &Value) -> Result<Vec<String>, String> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Bool(flag) => Ok(vec![flag.to_string()]),
        Value::Number(number) => Ok(vec![number.to_string()]),
        Value::String(text) => Ok(vec![text.clone()]),
        Value::Array(items) => Ok(items.iter().map(values).collect::<Result<Vec<_>, _>>()?.concat()),
        Value::Object(_) => Err("found a mapping, expected a value or a list of values".to_owned()),
    }
}

/// An option with its value: `--key` of a flag that is true, nothing of one that is false.
fn word(arg: &Arg, option: &str, value: &str) -> Option<OsString> {
    match (arg.get_action(), value) {
        (ArgAction::SetTrue, "true") => Some(format!("--{option}").into()),
        (ArgAction::SetTrue, "false") => None,
        _ => Some(format!("--{option}={value}").into()),
    }
}

fn unknown(options: Options<'_>, name: &str) -> String {
    let of_trl = || closest(name, trl::keys()).filter(|_| options.is_training);
    let nearest = closest(name, options.names()).or_else(of_trl);
    let hint = nearest.map(|known| format!("; did you mean {}?", known.replace('-', "_"))).unwrap_or_default();
    format!("unknown option of {}{hint}", options.command.get_name())
}

/// The entries of a mapping, in order.
#[derive(Debug)]
struct Entries(Vec<Entry>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<Spanned<String>, Value>()? {
            entries.push(Entry { line: key.referenced.line(), key: key.value, value });
        }
        Ok(Entries(entries))
    }
}
