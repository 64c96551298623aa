//! Why a model could not be downloaded.
//!
//! No message contains a token: text of a server is redacted first, and URLs are shown without their query, which may be
//! signed.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{ErrorKind, FileError, cut, quoted};

/// Why a model could not be downloaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The argument does not name a model on the Hub.
    #[error("{} is no model of the Hub: {rule}, expected org/name, org/name@revision or org/name/file.gguf", quoted(.found))]
    Reference {
        /// The argument.
        found: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// The endpoint is not a URL.
    #[error("the Hub's endpoint {rule}, expected an address like https://huggingface.co")]
    Endpoint {
        /// What is wrong with it; the address itself may hold a password.
        rule: String,
    },
    /// The token is empty or not printable ASCII.
    #[error("the Hub token has a character that is not printable ASCII, expected one line like hf_…")]
    Token,
    /// The model is not in the cache, and the network may not be used.
    #[error("{reference} is not in the cache {cache:?} ({} is missing), and the network is off (HF_HUB_OFFLINE)", quoted(.missing))]
    Offline {
        /// What was asked for.
        reference: String,
        /// The directory of the cache.
        cache: PathBuf,
        /// The first file or entry that the cache lacks.
        missing: String,
    },

    /// The model is gated.
    #[error("{repo} is gated ({status}): accept its terms at {page}, then {}", token_advice(.with_token))]
    Gated {
        /// The model.
        repo: String,
        /// Where its terms are.
        page: String,
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The Hub rejects the token, or requires one.
    #[error("{url} refuses access ({status}{}): {}", said(.message), token_advice(.with_token))]
    Unauthorized {
        /// What was asked for.
        url: String,
        /// 401 or 403.
        status: u16,
        /// What the server says.
        message: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The model does not exist, or it is private.
    #[error("{endpoint} has no model {repo}, or it is private: {}", token_advice(.with_token))]
    NoRepo {
        /// The model.
        repo: String,
        /// The Hub.
        endpoint: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The model has no such branch, tag or commit.
    #[error("{repo} has no revision {}, expected a branch, a tag or a commit", quoted(.revision))]
    NoRevision {
        /// The model.
        repo: String,
        /// What was asked for.
        revision: String,
    },
    /// The commit has no such file.
    #[error("{repo} has no file {} at commit {commit}", quoted(.file))]
    NoFile {
        /// The model.
        repo: String,
        /// The file.
        file: String,
        /// The commit.
        commit: String,
    },
    /// The model has no weights that can be read.
    #[error("{repo} has no safetensors at commit {commit}, {}", instead(.ggufs, .pickles))]
    NoSafetensors {
        /// The model.
        repo: String,
        /// The commit.
        commit: String,
        /// GGUF files that it has.
        ggufs: Vec<String>,
        /// Whether it has PyTorch's pickles.
        pickles: bool,
    },

    /// Any other error status.
    #[error("{url} answers {status}{}, expected 200", said(.message))]
    Status {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
        /// What the server says.
        message: String,
    },
    /// Too many requests, and the wait is too long.
    #[error("{url} answers 429 (too many requests) after {tries} tries{}", again_in(.retry_after))]
    RateLimited {
        /// What was asked for.
        url: String,
        /// How often.
        tries: u32,
        /// How long the server says to wait.
        retry_after: Option<Duration>,
    },
    /// The Hub cannot be reached, or fails repeatedly.
    #[error("{url} cannot be had after {tries} tries: {}", cut(.reason))]
    Unreachable {
        /// What was asked for.
        url: String,
        /// How often.
        tries: u32,
        /// The last failure.
        reason: String,
    },
    /// The host is unknown.
    #[error(
        "no address of {} can be found: expected a network that knows it; HF_ENDPOINT names another Hub, HF_HUB_OFFLINE=1 stays in the cache",
        quoted(.host)
    )]
    NoSuchHost {
        /// The host: the Hub's, the proxy's, or where the Hub leads to.
        host: String,
    },
    /// A file did not arrive completely. What arrived is kept; with a sha256, the next download resumes it.
    #[error("{}: {found_bytes} of {} bytes arrived in {tries} tries ({}): try again", quoted(.file), of(.expected_bytes), cut(.reason))]
    Incomplete {
        /// The file.
        file: String,
        /// Bytes on disk.
        found_bytes: u64,
        /// Its size, if the Hub tells.
        expected_bytes: Option<u64>,
        /// How often it was tried.
        tries: u32,
        /// How the last try ended.
        reason: String,
    },
    /// A file has the right size but the wrong hash.
    #[error("{} has sha256 {found}, expected {expected}: what arrived is kept apart as {kept:?}", quoted(.file))]
    Hash {
        /// The file.
        file: String,
        /// Its hash.
        found: String,
        /// The hash that the Hub tells.
        expected: String,
        /// Where what arrived lies now.
        kept: PathBuf,
    },
    /// A name would lead out of the cache.
    #[error("{repo} names a file {}, expected a relative path without `..`, `\\` or a drive", quoted(.name))]
    UnsafeName {
        /// The model.
        repo: String,
        /// The name.
        name: String,
    },
    /// A redirect that is not followed.
    #[error("{url} redirects {rule}, expected at most 10 redirects, none of them away from https")]
    Redirect {
        /// What was asked for.
        url: String,
        /// Where it leads.
        rule: String,
    },
    /// The answer breaks the protocol.
    #[error("{url} answers {}, expected {expected}", cut(.found))]
    Answer {
        /// What was asked for.
        url: String,
        /// What it answers.
        found: String,
        /// What it should.
        expected: &'static str,
    },

    /// The disk has too little free space.
    #[error("{path:?} has {free_bytes} bytes free, expected at least {needed_bytes} for what is still to download")]
    NoSpace {
        /// The directory of the cache.
        path: PathBuf,
        /// What is free.
        free_bytes: u64,
        /// What is needed.
        needed_bytes: u64,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl HubError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::File(error) => error.kind(),
            Self::NoSpace { .. } => ErrorKind::Io,
            Self::Hash { .. } | Self::UnsafeName { .. } | Self::NoSafetensors { .. } => ErrorKind::Invalid,
            _ => ErrorKind::NotFound,
        }
    }
}

fn token_advice(with_token: &bool) -> &'static str {
    if *with_token { "the token that was sent has no access to it" } else { "set HF_TOKEN to a token that has access" }
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(", {}", quoted(message)) }
}

fn instead(ggufs: &[String], pickles: &bool) -> String {
    match (ggufs, pickles) {
        ([], true) => "only PyTorch pickles, which are never read".into(),
        ([], false) => "expected model.safetensors or model.safetensors.index.json".into(),
        (ggufs, _) => format!("but GGUF: name one of them behind the model, as in org/name/{}", cut(&ggufs.join(", "))),
    }
}

fn again_in(retry_after: &Option<Duration>) -> String {
    retry_after.map_or(String::new(), |wait| format!(": it says to try again in {} s", wait.as_secs()))
}

fn of(expected_bytes: &Option<u64>) -> String {
    expected_bytes.map_or("an unknown number of".into(), |bytes| bytes.to_string())
}
