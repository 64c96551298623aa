//! Models by the names that configs have for them.

use std::fmt;
use std::path::Path;

use super::error::MergeFault;
use super::field_fault::FieldFault;
use super::yaml::{Node, Value};

/// A model: a path or a hub id, optionally at a revision. The caller opens it; a relative path is looked up beside the
/// config first. A path with a trailing slash is equal to the path without.
#[derive(Debug, Clone, Eq)]
pub struct ModelRef {
    /// A path, or `organisation/name` on the hub.
    pub path: String,
    /// A branch, tag or commit on the hub.
    pub revision: Option<String>,
}

impl ModelRef {
    pub(super) fn read(field: &str, node: &Node) -> Result<Self, MergeFault> {
        let Value::Mapping(_) = node.value else { return Self::of_text(node.text(field)?, node) };
        let fields = node.fields(field, &["model", "lora", "override_architecture"])?;
        if let Some(lora) = fields.get("lora") {
            return lora.unsupported("lora", "a model without an adapter: merge it in first");
        }
        if let Some(name) = fields.get("override_architecture") {
            return name.unsupported("override_architecture", "the architecture that the model has");
        }
        let model = fields.required("model")?;
        let Value::Mapping(_) = model.value else { return Self::of_text(model.text("model")?, model) };
        let fields = model.fields("model", &["path", "revision"])?;
        let path = fields.required("path")?;
        let revision = fields.get("revision").map(|node| node.text("revision")).transpose()?;
        let path_text = path.text("path")?;
        if path_text.is_empty() || revision.is_some_and(str::is_empty) {
            return path.refuse(FieldFault::BadReference { found: path_text.to_owned() });
        }
        Ok(Self { path: path_text.to_owned(), revision: revision.map(str::to_owned) })
    }

    /// `path`, `path@revision`; `+` would add an adapter.
    fn of_text(text: &str, node: &Node) -> Result<Self, MergeFault> {
        if text.contains('+') {
            return node.unsupported("model", "one without +adapter: merge the adapter in first");
        }
        let (path, revision) = match text.split_once('@') {
            None => (text, None),
            Some((path, revision)) => (path, Some(revision)),
        };
        if path.is_empty() || revision.is_some_and(|revision| revision.is_empty() || revision.contains('@')) {
            return node.refuse(FieldFault::BadReference { found: text.to_owned() });
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

impl PartialEq for ModelRef {
    fn eq(&self, other: &Self) -> bool {
        self.revision == other.revision && Path::new(&self.path) == Path::new(&other.path)
    }
}

/// The distinct models of a config, in the order in which it first names them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Models(pub Vec<ModelRef>);

impl Models {
    /// The index of a model in the list; a new one is appended.
    pub fn place(&mut self, model: ModelRef) -> usize {
        self.0.iter().position(|known| *known == model).unwrap_or_else(|| {
            self.0.push(model);
            self.0.len() - 1
        })
    }

    /// The name of a model in the config.
    pub fn name(&self, place: usize) -> String {
        self.0[place].to_string()
    }
}
