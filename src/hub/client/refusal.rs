//! Failures told apart: which may pass, and what the others mean.

use std::io::Read;
use std::time::Duration;

use serde::Deserialize;
use ureq::Body;
use ureq::http::{Response, StatusCode};

use super::answer::{About, Answer, text_of};
use super::{Client, shown};
use crate::hub::retry_after::retry_after;
use crate::hub::{HubError, HubReference};

/// The most that is read of an answer that says what went wrong.
const MAX_ERROR_BYTES: u64 = 64 << 10;

/// A failed try.
#[derive(Debug)]
pub(in crate::hub) enum Trouble {
    /// Another try may succeed.
    Again(Failure),
    /// No other try will.
    Final(HubError),
}

/// Why to try again, and when.
#[derive(Debug)]
pub(in crate::hub) struct Failure {
    pub reason: String,
    pub(super) retry_after: Option<Duration>,
    pub(super) limited: bool,
}

/// What a request is about, for what a refusal means.
#[derive(Clone, Copy)]
pub(super) enum Subject<'a> {
    Model(&'a HubReference),
    File { repo: &'a str, commit: &'a str, file: &'a str },
}

impl Trouble {
    pub fn again(reason: impl ToString) -> Self {
        Self::Again(Failure { reason: reason.to_string(), retry_after: None, limited: false })
    }
}

impl From<HubError> for Trouble {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}

impl Client<'_> {
    /// Lets through what can be used, and says what a refusal means.
    pub(super) fn judge(
        &self,
        response: Response<Body>,
        about: About,
        subject: Subject<'_>,
        url: &str,
    ) -> Result<Answer, Trouble> {
        let answer = self.answer(response, about);
        let status = answer.status;
        if matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE) {
            return Ok(answer);
        }
        let retry_after = retry_after(&answer.headers);
        let limited = status == StatusCode::TOO_MANY_REQUESTS;
        let code = text_of(&answer.headers, "x-error-code").unwrap_or_default().to_owned();
        let message = self.redact(&said(answer));
        if limited || status == StatusCode::REQUEST_TIMEOUT || status.is_server_error() {
            let reason = match message.is_empty() {
                true => status.to_string(),
                false => format!("{status}, {message}"),
            };
            return Err(Trouble::Again(Failure { reason, retry_after, limited }));
        }
        Err(Trouble::Final(self.refusal(status.as_u16(), &code, message, subject, url)))
    }

    fn refusal(&self, status: u16, code: &str, message: String, subject: Subject<'_>, url: &str) -> HubError {
        let (with_token, url) = (self.settings.token.is_some(), shown(url));
        let repo = match subject {
            Subject::Model(reference) => reference.repo().to_owned(),
            Subject::File { repo, .. } => repo.to_owned(),
        };
        match (status, code, subject) {
            (_, "GatedRepo", _) => HubError::Gated { page: self.hub.join(&repo), repo, status, with_token },
            (_, "RevisionNotFound", Subject::Model(reference)) => {
                HubError::NoRevision { repo, revision: reference.revision().to_owned() }
            }
            (404, "EntryNotFound" | "", Subject::File { file, commit, .. }) => {
                HubError::NoFile { repo, file: file.to_owned(), commit: commit.to_owned() }
            }
            (_, "RepoNotFound", _) | (404, _, _) => {
                HubError::NoRepo { repo, endpoint: self.hub.as_str().to_owned(), with_token }
            }
            (401 | 403, _, _) => HubError::Unauthorized { url, status, message, with_token },
            _ => HubError::Status { url, status, message },
        }
    }
}

/// What a server says about why it refuses: its header, the `error` of its JSON, or its text.
fn said(answer: Answer) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    if let Some(message) = text_of(&answer.headers, "x-error-message") {
        return message.to_owned();
    }
    let mut body = Vec::new();
    // What cannot be read has nothing to say.
    let _ = answer.body.take(MAX_ERROR_BYTES).read_to_end(&mut body);
    let text = String::from_utf8_lossy(&body);
    let text = text.trim();
    match serde_json::from_str::<Refusal>(text) {
        Ok(refusal) => refusal.error,
        Err(_) if text.starts_with('<') => "an HTML page".to_owned(),
        Err(_) => text.to_owned(),
    }
}
