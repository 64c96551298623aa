//! YAML as a tree in which every node knows its place and what was written there.
//!
//! A parser that hands out numbers would hide that `1e3`, `0x10` or `"8"` stood where a layer should; this one keeps
//! the text. Aliases and merge keys are written out; what they may grow to is bounded.

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::options::NonFiniteFloatPolicy;
use serde_saphyr::{Error, Location, Spanned, budget, from_str_with_options, options};

use super::error::{Fault, MergeError, Position, cut, quoted};

/// Bytes of the longest file.
const LIMIT_BYTES: usize = 1 << 20;
/// Scalars, lists and mappings, with aliases written out.
const MAX_NODES: usize = 20_000;
/// Bytes of all scalars, with aliases written out.
const MAX_SCALAR_BYTES: usize = 4 << 20;
/// Lists and mappings inside each other.
const MAX_DEPTH: usize = 32;

/// A node of a YAML document.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub at: Position,
    pub value: Value,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// Empty, `~` or `null`.
    Null,
    /// A plain scalar that YAML reads as a truth value or a number, as it was written.
    Plain(String),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in order; keys are distinct.
    Mapping(Vec<(Node, Node)>),
}

impl Node {
    /// Parses one document.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, MergeError> {
        let start = Position { line: 1, column: 1 };
        let refused = |at, fault| MergeError { file: file.to_owned(), at, fault };
        if bytes.len() > LIMIT_BYTES {
            let (found_bytes, limit_bytes) = (bytes.len(), LIMIT_BYTES);
            return Err(refused(start, Fault::TooLarge { found_bytes, limit_bytes }));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let (before, after) = bytes.split_at(error.valid_up_to());
            refused(end_of(before), Fault::NotUtf8 { byte: after[0] })
        })?;
        let options = options! {
            budget: budget! {
                max_nodes: MAX_NODES,
                max_events: 4 * MAX_NODES,
                max_recorded_anchor_events: 4 * MAX_NODES,
                max_recorded_anchor_bytes: MAX_SCALAR_BYTES,
                max_total_scalar_bytes: MAX_SCALAR_BYTES,
                max_depth: MAX_DEPTH,
                flow_nesting_limit: MAX_DEPTH,
            },
            reject_unsupported_tags: true,
            non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
            with_snippet: false,
        };
        let parsed: Parsed = from_str_with_options(text, options).map_err(|error| {
            let (at, fault) = fault_of(&error, text);
            refused(at.unwrap_or(start), fault)
        })?;
        Ok(parsed.node(text))
    }

    /// What stands here, in words, for a message.
    pub fn found(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Plain(raw) => cut(raw),
            Value::Text(text) => format!("text {}", quoted(text)),
            Value::List(items) => format!("a list of {}", items.len()),
            Value::Mapping(_) => "a mapping".to_owned(),
        }
    }
}

/// A node as the deserializer hands it out.
#[derive(Deserialize)]
#[serde(transparent)]
struct Parsed(Spanned<Raw>);

enum Raw {
    Null,
    Plain,
    Text(String),
    List(Vec<Parsed>),
    Mapping(Vec<(Parsed, Parsed)>),
}

impl Parsed {
    fn node(self, text: &str) -> Node {
        let at = position(self.0.defined);
        let value = match self.0.value {
            Raw::Null => Value::Null,
            Raw::Plain => Value::Plain(written(self.0.defined, text).unwrap_or("a plain scalar").to_owned()),
            Raw::Text(value) => Value::Text(value),
            Raw::List(items) => Value::List(items.into_iter().map(|item| item.node(text)).collect()),
            Raw::Mapping(pairs) => {
                Value::Mapping(pairs.into_iter().map(|(key, value)| (key.node(text), value.node(text))).collect())
            }
        };
        Node { at, value }
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyNode)
    }
}

struct AnyNode;

impl<'de> Visitor<'de> for AnyNode {
    type Value = Raw;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("a YAML node")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Raw, A::Error> {
        let mut mapping = Vec::new();
        while let Some(pair) = pairs.next_entry()? {
            mapping.push(pair);
        }
        Ok(Raw::Mapping(mapping))
    }
}

fn position(location: Location) -> Position {
    Position { line: location.line().max(1), column: location.column().max(1) }
}

/// The place after all of `bytes`.
fn end_of(bytes: &[u8]) -> Position {
    let line = bytes.iter().filter(|&&byte| byte == b'\n').count() as u64 + 1;
    let last = bytes.rsplit(|&byte| byte == b'\n').next().unwrap_or_default();
    Position { line, column: String::from_utf8_lossy(last).chars().count() as u64 + 1 }
}

fn written(location: Location, text: &str) -> Option<&str> {
    let span = location.span();
    let begin = usize::try_from(span.byte_offset()?).ok()?;
    text.get(begin..begin.checked_add(usize::try_from(span.byte_len()?).ok()?)?)
}

/// Which rule the parser found broken, and where.
fn fault_of(error: &Error, text: &str) -> (Option<Position>, Fault) {
    let location = error.location();
    let fault = match error.without_snippet() {
        Error::AliasError { error, .. } => return (location.map(position), fault_of(error, text).1),
        Error::DuplicateMappingKey { key, .. } => Fault::DuplicateKey { key: key.clone().unwrap_or_default() },
        Error::MultipleDocuments { .. } => Fault::SeveralDocuments,
        Error::UnsupportedTag { tag, .. } => Fault::CustomTag { tag: tag.to_string() },
        Error::UnknownAnchor { .. } => Fault::UnknownAnchor,
        Error::RecursiveReferencesRequireWeakTypes { .. } => Fault::RecursiveAlias,
        Error::MergeValueNotMapOrSeqOfMaps { .. } => Fault::BadMergeKey,
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => Fault::TooDeep { limit: MAX_DEPTH },
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            Fault::TooManyValues { limit: MAX_NODES, limit_bytes: MAX_SCALAR_BYTES }
        }
        other => match other.to_string() {
            message if message.contains("recursion limit") => Fault::TooDeep { limit: MAX_DEPTH },
            _ if location.is_some_and(|location| is_tab(location, text)) => Fault::Tab,
            message => Fault::Syntax { message: without_place(&message).to_owned() },
        },
    };
    (location.map(position), fault)
}

fn is_tab(location: Location, text: &str) -> bool {
    let line = usize::try_from(location.line()).ok().and_then(|line| text.lines().nth(line.saturating_sub(1)));
    line.is_some_and(|line| line.chars().take_while(|c| c.is_whitespace()).any(|c| c == '\t'))
}

/// The parser's message without the place that it ends with.
fn without_place(message: &str) -> &str {
    message.split(" at line ").next().unwrap_or(message)
}
