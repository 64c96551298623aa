//! What a refusal of the hub means.

use std::io::Read;

use serde::Deserialize;

use super::address::{Address, without_query};
use super::error::HubError;
use super::reference::HubReference;
use super::response::{Answer, text_of};

/// Cap on the body of an error response.
const MAX_ERROR_BYTES: u64 = 64 << 10;

/// What a request is about.
#[derive(Clone, Copy)]
pub(super) enum Subject<'a> {
    Model(&'a HubReference),
    File { repo: &'a str, commit: &'a str, file: &'a str },
}

/// The error for a response with this status, `x-error-code` and message.
pub(super) fn refusal(
    status: u16,
    code: &str,
    message: String,
    with_token: bool,
    subject: Subject<'_>,
    hub: &Address,
    url: &str,
) -> HubError {
    let url = without_query(url).to_owned();
    let repo = match subject {
        Subject::Model(reference) => reference.repo().to_owned(),
        Subject::File { repo, .. } => repo.to_owned(),
    };
    match (status, code, subject) {
        (_, "GatedRepo", _) => HubError::Gated { page: hub.join(&repo), repo, status, with_token },
        (_, "RevisionNotFound", Subject::Model(reference)) => {
            HubError::NoRevision { repo, revision: reference.revision().to_owned() }
        }
        (404, "EntryNotFound" | "", Subject::File { file, commit, .. }) => {
            HubError::NoFile { repo, file: file.to_owned(), commit: commit.to_owned() }
        }
        (_, "RepoNotFound", _) | (404, _, _) => {
            HubError::NoRepo { repo, endpoint: hub.as_str().to_owned(), with_token }
        }
        (401 | 403, _, _) => HubError::Unauthorized { url, status, message, with_token },
        _ => HubError::Status { url, status, message },
    }
}

/// The reason that a server gives: its header, the `error` of its JSON, or its text.
pub(super) fn message_of(answer: Answer) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    if let Some(message) = text_of(&answer.headers, "x-error-message") {
        return message.to_owned();
    }
    let mut body = Vec::new();
    // A body that cannot be read adds nothing to the status.
    let _ = answer.body.take(MAX_ERROR_BYTES).read_to_end(&mut body);
    let text = String::from_utf8_lossy(&body);
    let text = text.trim();
    match serde_json::from_str::<Refusal>(text) {
        Ok(refusal) => refusal.error,
        Err(_) if text.starts_with('<') => "an HTML page".to_owned(),
        Err(_) => text.to_owned(),
    }
}
