//! Names of models on the hub, `org/name[/file.gguf][@revision]`, and which names of files and revisions are safe.

use std::fmt;
use std::str::FromStr;

use super::error::HubError;
use crate::error::quoted;
use crate::formats::repo_id;

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
        let (path, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (repo, gguf) = match path.match_indices('/').nth(1) {
            Some((at, _)) => (&path[..at], Some(&path[at + 1..])),
            None => (path, None),
        };
        let no_gguf = gguf.is_some_and(|file| !file.ends_with(".gguf") || !is_safe(file));
        // Git accepts it, and a file system as a path below `refs/`.
        let refused = |c: char| c.is_whitespace() || "~^:?*[@{".contains(c);
        let is_revision = is_safe(revision) && revision.len() <= 200 && !revision.contains(refused);
        let rule = repo_id::broken_rule(repo)
            .or(no_gguf.then_some("what follows the second `/` is no GGUF file"))
            .or((!is_revision).then_some("what follows `@` is no branch, tag or commit"));
        match rule {
            None => Ok(Self { repo: repo.into(), revision: revision.into(), gguf: gguf.map(str::to_owned) }),
            Some(rule) => Err(HubError::Argument(format!(
                "{} is no model of the Hub: {rule}, expected org/name, org/name@revision or org/name/file.gguf",
                quoted(text)
            ))),
        }
    }
}

impl fmt::Display for HubReference {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let gguf = self.gguf.as_ref().map(|file| format!("/{file}")).unwrap_or_default();
        write!(f, "{}{gguf}@{}", self.repo, self.revision)
    }
}

/// Whether a path stays inside its repository, under the rules of POSIX and of Windows.
pub(super) fn is_safe(path: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', ':']);
    !path.contains(|c: char| c.is_control()) && path.split('/').all(plain)
}

/// Whether this is a hash of so many lower-case digits: 40 of a Git commit, 64 of sha256.
pub(super) fn is_hash(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
