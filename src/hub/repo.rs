//! A repository of the hub: a model or a data set.

use std::fmt;

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Model,
    DataSet,
}

/// A repository, by the kind of its content and its id, `org/name`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Repo<'a> {
    kind: Kind,
    id: &'a str,
}

impl<'a> Repo<'a> {
    /// The repository of a model.
    pub fn model(id: &'a str) -> Self {
        Self { kind: Kind::Model, id }
    }

    /// The repository of a data set.
    pub fn data_set(id: &'a str) -> Self {
        Self { kind: Kind::DataSet, id }
    }

    /// The kind for a message.
    pub fn noun(self) -> &'static str {
        match self.kind {
            Kind::Model => "model",
            Kind::DataSet => "data set",
        }
    }

    /// Its path on the hub: `org/name`, `datasets/org/name`.
    pub fn page(self) -> String {
        match self.kind {
            Kind::Model => self.id.to_owned(),
            Kind::DataSet => format!("datasets/{}", self.id),
        }
    }

    /// Its path in the hub's API: `models/org/name`, `datasets/org/name`.
    pub fn api(self) -> String {
        format!("{}/{}", self.plural(), self.id)
    }

    /// The name of its directory in the cache: `models--org--name`.
    pub fn folder(self) -> String {
        format!("{}--{}", self.plural(), self.id.replace('/', "--"))
    }

    fn plural(self) -> &'static str {
        match self.kind {
            Kind::Model => "models",
            Kind::DataSet => "datasets",
        }
    }
}

impl fmt::Display for Repo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.id)
    }
}
