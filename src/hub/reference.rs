//! Names of models on the hub: `org/name[/file.gguf][@revision]`.

use std::fmt;
use std::str::FromStr;

use super::error::HubError;
use super::names::is_safe;
use crate::formats::repo_id;

/// The default branch.
const DEFAULT_REVISION: &str = "main";

/// A model on the hub: `org/name[/file.gguf][@revision]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubReference {
    repo: String,
    revision: String,
    gguf: Option<String>,
}

impl HubReference {
    /// `org/name`.
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// A branch, a tag or a commit; `main` by default.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The GGUF file. Without one, the reference means the safetensors, or the only GGUF of a model that has none.
    pub fn gguf(&self) -> Option<&str> {
        self.gguf.as_deref()
    }
}

impl FromStr for HubReference {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let wrong = |rule| HubError::Reference { found: text.to_owned(), rule };
        let (path, revision) = text.split_once('@').unwrap_or((text, DEFAULT_REVISION));
        let mut parts = path.splitn(3, '/');
        let (Some(org), Some(name)) = (parts.next(), parts.next()) else {
            return Err(wrong("it has no `/`"));
        };
        let gguf = parts.next().map(str::to_owned);
        let repo = format!("{org}/{name}");
        if let Some(rule) = repo_id::broken_rule(&repo) {
            return Err(wrong(rule));
        }
        if gguf.as_deref().is_some_and(|file| !file.ends_with(".gguf") || !is_safe(file)) {
            return Err(wrong("what follows the second `/` is no GGUF file"));
        }
        if !is_revision(revision) {
            return Err(wrong("what follows `@` is no branch, tag or commit"));
        }
        Ok(Self { repo, revision: revision.to_owned(), gguf })
    }
}

impl fmt::Display for HubReference {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let gguf = self.gguf.as_ref().map(|file| format!("/{file}")).unwrap_or_default();
        write!(f, "{}{gguf}@{}", self.repo, self.revision)
    }
}

/// Whether Git accepts this as a revision and a file system as a path below `refs/`.
fn is_revision(text: &str) -> bool {
    is_safe(text) && text.len() <= 200 && !text.contains(|c: char| c.is_whitespace() || "~^:?*[@{".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_has_a_name_a_revision_and_perhaps_a_file() {
        let parse = |text: &str| text.parse::<HubReference>().unwrap();
        let model = parse("mistralai/Mistral-7B-v0.1");
        assert_eq!((model.repo(), model.revision(), model.gguf()), ("mistralai/Mistral-7B-v0.1", "main", None));
        assert_eq!(parse("a/b@refs/pr/1").revision(), "refs/pr/1");
        let file = parse("a/b/sub/model-Q8_0.gguf@v1.0");
        assert_eq!((file.repo(), file.revision(), file.gguf()), ("a/b", "v1.0", Some("sub/model-Q8_0.gguf")));
        assert_eq!(file.to_string(), "a/b/sub/model-Q8_0.gguf@v1.0");
    }

    #[test]
    fn a_refused_name_is_shown_with_the_rule_it_breaks() {
        let cases = [
            ("gpt2", "no `/`"),
            ("", "no `/`"),
            ("/absolute/path", "empty"),
            ("./relative/path", "starts or ends with"),
            ("../up", "starts or ends with"),
            ("~/models", "character other than"),
            ("a\\b/c", "character other than"),
            ("C:/models", "character other than"),
            ("a/b/c", "no GGUF file"),
            ("a/b/../x.gguf", "no GGUF file"),
            ("a--b/c", "`--`"),
            ("a/b..c", "`..`"),
            ("a/b.git", ".git"),
            ("a/b@", "no branch"),
            ("a/b@../../x", "no branch"),
            ("a/b@/etc", "no branch"),
            ("a/b@x y", "no branch"),
        ];
        for (text, rule) in cases {
            let message = text.parse::<HubReference>().unwrap_err().to_string();
            assert!(message.contains(rule) && message.contains("expected org/name"), "{text}: {message}");
        }
        assert!(format!("a/{}", "b".repeat(95)).parse::<HubReference>().is_err());
        assert!(format!("a/{}", "b".repeat(94)).parse::<HubReference>().is_ok());
    }
}
