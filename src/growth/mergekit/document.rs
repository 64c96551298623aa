//! The YAML document of a config, and its keys at the top.

use std::path::Path;

use super::anchors::has_anchor;
use super::error::{MergeFault, MergeNotice};
use super::fields::Fields;
use super::yaml::{Node, Value};

/// A parsed file.
#[derive(Clone, Copy)]
pub(super) struct Document<'a> {
    pub file: &'a Path,
    pub text: &'a str,
    pub root: &'a Node,
    /// The notices of parsing.
    pub notices: &'a [MergeNotice],
}

impl<'a> Document<'a> {
    /// Whether the config is for `mergekit-moe`: it has a key that only these have.
    pub fn is_moe(&self) -> bool {
        self.keys().any(|key| matches!(&key.value, Value::Text(name) if name == "experts"))
    }

    /// The keys at the top, all of which are `known` but those that only hold anchors, and all notices.
    pub fn fields(self, known: &[&'static str]) -> Result<(Fields<'a>, Vec<MergeNotice>), MergeFault> {
        let mut notices = self.notices.to_vec();
        let fields = self.root.fields_but("the config", known, |key, name| {
            let holds_anchors = has_anchor(self.text, key, self.keys());
            if holds_anchors {
                notices.push(MergeNotice::AnchorsOnly { at: key.at, key: name.to_owned() });
            }
            holds_anchors
        })?;
        Ok((fields, notices))
    }

    fn keys(&self) -> impl Iterator<Item = &'a Node> {
        let pairs: &[(Node, Node)] = if let Value::Mapping(pairs) = &self.root.value { pairs } else { &[] };
        pairs.iter().map(|(key, _)| key)
    }
}
