//! Why a model or a data set could not be downloaded.
//!
//! No message contains a token: text of a server is redacted first, and URLs are shown without their query, which may be
//! signed.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{ErrorKind, FileError, cut, quoted};

pub(super) type Result<T, E = HubError> = std::result::Result<T, E>;

/// Why a model or a data set could not be downloaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The reference, the endpoint or the token breaks a rule.
    #[error("{0}")]
    Argument(String),
    /// The model is not in the cache, and the network may not be used.
    #[error("{0}, and the network is off (HF_HUB_OFFLINE)")]
    Offline(String),
    /// The model is gated or private, or the Hub rejects the token.
    #[error("{0}")]
    Access(String),
    /// The model has no such revision or file.
    #[error("{0}")]
    Absent(String),
    /// The model has no weights that can be read.
    #[error("{0}")]
    NoSafetensors(String),
    /// A name would lead out of the cache.
    #[error("the Hub names a file {}, expected a relative path without `..`, `\\` or a drive", quoted(.0))]
    UnsafeName(String),
    /// No address of a host is known: the Hub's, the proxy's, or where the Hub leads to.
    #[error("cannot resolve host {}: check the network; HF_ENDPOINT names another Hub, HF_HUB_OFFLINE=1 uses the cache only", quoted(.0))]
    NoSuchHost(String),
    /// The answer is no use, and another try would get the same.
    #[error("{url} answers {}, expected {expected}", cut(.found))]
    Answer {
        /// The URL of the request.
        url: String,
        /// The answer.
        found: String,
        /// Expected form.
        expected: &'static str,
    },
    /// No try succeeded. Bytes of a file that arrived are kept; with a sha256, the next download resumes there.
    #[error("{url} could not be downloaded after {tries} attempts: {}{}", cut(.reason), again_in(.retry_after))]
    Unreachable {
        /// The URL of the request.
        url: String,
        /// Tries since the last progress.
        tries: u32,
        /// How the last try failed.
        reason: String,
        /// How long the server says to wait.
        retry_after: Option<Duration>,
    },
    /// A file has the right size but the wrong hash.
    #[error("{} has sha256 {found}, expected {expected}: the damaged file is kept as {kept:?}", quoted(.file))]
    Hash {
        /// The file.
        file: String,
        /// Its hash.
        found: String,
        /// The hash that the Hub gives.
        expected: String,
        /// The path of the damaged file.
        kept: PathBuf,
    },
    /// The disk has too little free space.
    #[error("{path:?} has {free_bytes} bytes free, expected at least {needed_bytes} for what is still to download")]
    NoSpace {
        /// The directory of the cache.
        path: PathBuf,
        /// Free bytes.
        free_bytes: u64,
        /// Bytes still to download.
        needed_bytes: u64,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl HubError {
    /// A failure that another try may not have; the retry loop adds the URL and the number of tries.
    pub(super) fn again(reason: impl ToString) -> Self {
        Self::Unreachable { url: String::new(), tries: 0, reason: reason.to_string(), retry_after: None }
    }

    pub(super) fn no_file(repo: &str, file: &str, commit: &str) -> Self {
        Self::Absent(format!("{repo} has no file {} at commit {commit}", quoted(file)))
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::File(error) => error.kind(),
            Self::NoSpace { .. } => ErrorKind::Io,
            Self::Hash { .. } | Self::UnsafeName(_) | Self::NoSafetensors(_) => ErrorKind::Invalid,
            _ => ErrorKind::NotFound,
        }
    }
}

fn again_in(retry_after: &Option<Duration>) -> String {
    retry_after.map_or(String::new(), |wait| format!(": it says to try again in {} s", wait.as_secs()))
}
