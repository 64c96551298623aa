//! YAML as a tree whose nodes have their place and their text.
//!
//! Numbers stay text, so that `1e3`, `0x10` or `"8"` is not mistaken for a layer. Aliases and merge keys are expanded,
//! within bounds.

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{Error, Location, Spanned, budget, from_str_with_options, options};

use super::error::{MergeFault, MergeNotice, MergeRule, Position};
use super::yaml_fault::{LIMIT_BYTES, MAX_DEPTH, MAX_NODES, MAX_SCALAR_BYTES, YamlFault};
use crate::error::{cut, quoted};

/// A node of a YAML document.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub at: Position,
    pub value: Value,
}

/// The value of a node.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// Empty, `~` or `null`.
    Null,
    /// A plain scalar that YAML reads as a boolean or a number, as written.
    Plain(String),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in order, with distinct keys.
    Mapping(Vec<(Node, Node)>),
}

impl Node {
    /// Parses one document. Of a key that is given twice in a mapping the last value counts, as in PyYAML, with a notice.
    pub fn parse(bytes: &[u8], notices: &mut Vec<MergeNotice>) -> Result<Self, MergeFault> {
        let start = Position { line: 1, column: 1 };
        let refused = |at, fault: YamlFault| MergeFault { at, rule: fault.into() };
        if bytes.len() > LIMIT_BYTES {
            return Err(refused(start, YamlFault::TooLarge { found_bytes: bytes.len() }));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let (before, after) = bytes.split_at(error.valid_up_to());
            refused(end_of(before), YamlFault::NotUtf8 { byte: after[0] })
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
            duplicate_keys: DuplicateKeyPolicy::PassThrough,
            reject_unsupported_tags: true,
            non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
            with_snippet: false,
        };
        let parsed: Parsed = from_str_with_options(text, options).map_err(|error| {
            let (at, fault) = fault_of(&error, text);
            refused(at.unwrap_or(start), fault)
        })?;
        Ok(parsed.node(text, notices))
    }

    /// The value in words, for a message.
    pub fn found(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Plain(raw) => cut(raw),
            Value::Text(text) => format!("text {}", quoted(text)),
            Value::List(items) => format!("a list of {}", items.len()),
            Value::Mapping(_) => "a mapping".to_owned(),
        }
    }

    /// The text of a key, for a message.
    fn text_or_found(&self) -> String {
        if let Value::Text(text) = &self.value { text.clone() } else { self.found() }
    }

    /// Refuses the node.
    pub fn refuse<T>(&self, rule: impl Into<MergeRule>) -> Result<T, MergeFault> {
        Err(MergeFault { at: self.at, rule: rule.into() })
    }
}

/// A node from the deserializer.
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
    fn node(self, text: &str, notices: &mut Vec<MergeNotice>) -> Node {
        let at = position(self.0.defined);
        let value = match self.0.value {
            Raw::Null => Value::Null,
            Raw::Plain => Value::Plain(written(self.0.defined, text).unwrap_or("a plain scalar").to_owned()),
            Raw::Text(value) => Value::Text(value),
            Raw::List(items) => Value::List(items.into_iter().map(|item| item.node(text, notices)).collect()),
            Raw::Mapping(pairs) => {
                let mut mapping: Vec<(Node, Node)> = Vec::with_capacity(pairs.len());
                for (key, value) in pairs {
                    let (key, value) = (key.node(text, notices), value.node(text, notices));
                    match mapping.iter_mut().find(|(known, _)| known.value == key.value) {
                        Some(pair) => {
                            notices.push(MergeNotice::RepeatedKey { at: key.at, key: key.text_or_found() });
                            *pair = (key, value);
                        }
                        None => mapping.push((key, value)),
                    }
                }
                Value::Mapping(mapping)
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

/// The place after `bytes`.
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

/// The rule that the parser found broken, and the place.
fn fault_of(error: &Error, text: &str) -> (Option<Position>, YamlFault) {
    let location = error.location();
    let fault = match error.without_snippet() {
        Error::AliasError { error, .. } => return (location.map(position), fault_of(error, text).1),
        Error::MultipleDocuments { .. } => YamlFault::SeveralDocuments,
        Error::UnsupportedTag { tag, .. } => YamlFault::CustomTag { tag: tag.to_string() },
        Error::UnknownAnchor { .. } => YamlFault::UnknownAnchor,
        Error::RecursiveReferencesRequireWeakTypes { .. } => YamlFault::RecursiveAlias,
        Error::MergeValueNotMapOrSeqOfMaps { .. } => YamlFault::BadMergeKey,
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => YamlFault::TooDeep,
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => YamlFault::TooManyValues,
        other => match other.to_string() {
            message if message.contains("recursion limit") => YamlFault::TooDeep,
            _ if location.is_some_and(|location| is_tab(location, text)) => YamlFault::Tab,
            // The parser's message ends with the place.
            message => YamlFault::Syntax { message: message.split(" at line ").next().unwrap_or(&message).to_owned() },
        },
    };
    (location.map(position), fault)
}

fn is_tab(location: Location, text: &str) -> bool {
    let line = usize::try_from(location.line()).ok().and_then(|line| text.lines().nth(line.saturating_sub(1)));
    line.is_some_and(|line| line.chars().take_while(|c| c.is_whitespace()).any(|c| c == '\t'))
}
