//! Models as configs name them.

use std::fmt;

use super::error::{Fault, MergeError};
use super::fields::Reader;
use super::yaml::{Node, Value};

/// A model: a path or a hub id, perhaps at a revision. What it means is the business of whoever opens it; by our one
/// rule, a relative path is looked up beside the config first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ModelRef {
    /// A path, or `organisation/name` on the hub.
    pub path: String,
    /// A branch, tag or commit on the hub.
    pub revision: Option<String>,
}

impl ModelRef {
    pub(super) fn read(reader: Reader<'_>, field: &str, node: &Node) -> Result<Self, MergeError> {
        let Value::Mapping(_) = node.value else { return Self::of_text(reader, reader.text(field, node)?, node) };
        let fields = reader.fields(field, node, &["model", "lora", "override_architecture"])?;
        if let Some(lora) = fields.get("lora") {
            return reader.unsupported("lora", lora, "a model without an adapter: merge it in first");
        }
        if let Some(name) = fields.get("override_architecture") {
            return reader.unsupported("override_architecture", name, "the architecture that the model has");
        }
        let model = fields.required(reader, "model")?;
        let Value::Mapping(_) = model.value else { return Self::of_text(reader, reader.text("model", model)?, model) };
        let fields = reader.fields("model", model, &["path", "revision"])?;
        let path = fields.required(reader, "path")?;
        let revision = fields.get("revision").map(|node| reader.text("revision", node)).transpose()?;
        let path_text = reader.text("path", path)?;
        if path_text.is_empty() || revision.is_some_and(str::is_empty) {
            return reader.refuse(path.at, Fault::BadReference { found: path_text.to_owned() });
        }
        Ok(Self { path: path_text.to_owned(), revision: revision.map(str::to_owned) })
    }

    /// `path`, `path@revision`; `+` would add an adapter.
    fn of_text(reader: Reader<'_>, text: &str, node: &Node) -> Result<Self, MergeError> {
        if text.contains('+') {
            return reader.unsupported("model", node, "one without +adapter: merge the adapter in first");
        }
        let (path, revision) = match text.split_once('@') {
            None => (text, None),
            Some((path, revision)) => (path, Some(revision)),
        };
        if path.is_empty() || revision.is_some_and(|revision| revision.is_empty() || revision.contains('@')) {
            return reader.refuse(node.at, Fault::BadReference { found: text.to_owned() });
        }
        Ok(Self { path: path.to_owned(), revision: revision.map(str::to_owned) })
    }
}

/// `path` or `path@revision`.
impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.revision {
            None => f.write_str(&self.path),
            Some(revision) => write!(f, "{}@{revision}", self.path),
        }
    }
}

/// The distinct models of a config, in the order in which it first names them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Models(pub Vec<ModelRef>);

impl Models {
    /// The place of a model in the list, at the end if it is new.
    pub fn place(&mut self, model: ModelRef) -> usize {
        self.0.iter().position(|known| *known == model).unwrap_or_else(|| {
            self.0.push(model);
            self.0.len() - 1
        })
    }

    /// A model as the config names it.
    pub fn name(&self, place: usize) -> String {
        self.0[place].to_string()
    }
}
