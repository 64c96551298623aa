//! Requests about one repository to its hub: redirects, refusals, retries.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::ToSocketAddrs;
use std::time::Instant;

use serde::Deserialize;
use serde_json::Value;
use ureq::http::header::{AUTHORIZATION, LOCATION};
use ureq::http::uri::Scheme;
use ureq::http::{HeaderMap, StatusCode, Uri};
use ureq::{Agent, Body, Error, Proxy};

use super::cache::RepoCache;
use super::error::{HubError, Result};
use super::headers::{Content, etag_of, number_of, retry_after, text_of};
use super::progress::Progress;
use super::reference::{is_hash, is_safe};
use super::repo::Repo;
use super::settings::{HubSettings, Patience};
use crate::error::quoted;
use crate::output::is_plain_file_name;

/// Cap on the list of a repository's files.
const MAX_LIST_BYTES: u64 = 32 << 20;
/// Cap on the body of an error response.
const MAX_ERROR_BYTES: u64 = 64 << 10;
const MAX_REDIRECTS: u32 = 10;
/// Bytes read at once.
const BUFFER_BYTES: usize = 256 << 10;
/// Bytes that must arrive in each period of [`Patience::stall`].
const MIN_BYTES: usize = 1 << 10;

pub(super) type Response = ureq::http::Response<Body>;

/// Sends requests about one repository.
pub(super) struct Client<'a> {
    pub settings: &'a HubSettings,
    pub repo: Repo<'a>,
    pub cache: RepoCache,
    hub: Uri,
    agent: Agent,
    progress: RefCell<&'a mut dyn FnMut(Progress<'_>)>,
}

/// Subject of a request: a file of a commit, or the list of a revision's files.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub revision: &'a str,
    pub file: Option<&'a str>,
}

impl<'a> Client<'a> {
    /// # Errors
    /// [`HubError::Argument`] if the endpoint is no URL of a server.
    pub fn new(settings: &'a HubSettings, repo: Repo<'a>, progress: &'a mut dyn FnMut(Progress<'_>)) -> Result<Self> {
        let plain = |uri: &Uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && !settings.endpoint.contains(['@', '?', '#'])
        };
        let wrong = "the Hub's endpoint is no plain URL, expected an address like https://huggingface.co";
        let hub = settings.endpoint.parse().ok().filter(plain).ok_or_else(|| HubError::Argument(wrong.to_owned()))?;
        let stall = Some(settings.patience.stall);
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .https_only(hub.scheme() == Some(&Scheme::HTTPS))
            .proxy(settings.proxy.clone())
            .user_agent(concat!("deepwide/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_resolve(stall)
            .timeout_connect(stall)
            .timeout_recv_response(stall)
            .timeout_per_read(stall)
            .timeout_per_write(stall)
            .build();
        let cache = RepoCache::new(&settings.cache, repo);
        Ok(Self { settings, repo, cache, hub, agent: config.new_agent(), progress: RefCell::new(progress) })
    }

    pub fn tell(&self, progress: Progress<'_>) {
        (self.progress.borrow_mut())(progress);
    }

    /// The commit that a revision stands for now, and its files.
    pub fn resolve(&self, revision: &str) -> Result<(String, BTreeSet<String>)> {
        #[derive(Deserialize)]
        struct Listing {
            sha: String,
            #[serde(default)]
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let subject = Subject { revision, file: None };
        let expected = "a JSON object with a commit `sha` and a list of files";
        let text = self.retry(subject, |_| self.body(self.request(false, subject, &[])?.1, MAX_LIST_BYTES))?;
        let listing: Listing = serde_json::from_slice(&text).map_err(|error| self.wrong(subject, error, expected))?;
        if !is_hash(&listing.sha, 40) {
            return Err(self.wrong(subject, format!("commit {:?}", listing.sha), expected));
        }
        let files: BTreeSet<String> = listing.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        if let Some(name) = files.iter().find(|name| !is_safe(name)) {
            return Err(HubError::UnsafeName(self.redact(name)));
        }
        self.tell(Progress::Resolved(&listing.sha));
        Ok((listing.sha, files))
    }

    /// The content of a file of a commit.
    pub fn content(&self, commit: &str, file: &str) -> Result<Content> {
        let subject = Subject { revision: commit, file: Some(file) };
        let (headers, response) = self.retry(subject, |_| self.request(true, subject, &[]))?;
        if let Some(other) = text_of(&headers, "x-repo-commit").filter(|found| *found != commit) {
            return Err(self.wrong(subject, format!("with commit {other:?}"), "the requested commit"));
        }
        let Some(etag) = etag_of(&headers) else {
            return Err(self.wrong(subject, "without an ETag", "one that names the content"));
        };
        if !is_plain_file_name(etag) {
            return Err(HubError::UnsafeName(self.redact(etag)));
        }
        // A redirect has a length of its own.
        let length = || number_of(&headers, "content-length").filter(|_| response.status() == StatusCode::OK);
        let size_bytes = number_of(&headers, "x-linked-size").or_else(length);
        Ok(Content { etag: etag.to_owned(), size_bytes })
    }

    /// Tries until one try succeeds, fails for good, or the patience ends. Each wait is twice the last, unless the server asks
    /// for another. A try that got far may reset the count of failed ones, which it is given.
    pub fn retry<T>(&self, subject: Subject<'_>, mut attempt: impl FnMut(&mut u32) -> Result<T>) -> Result<T> {
        let Patience { tries: most, first_wait, longest_wait, sleep, .. } = &self.settings.patience;
        let mut tries = 0;
        loop {
            let (reason, retry_after) = match attempt(&mut tries) {
                Err(HubError::Unreachable { reason, retry_after, .. }) => (reason, retry_after),
                result => return result,
            };
            tries += 1;
            let doubled = || first_wait.saturating_mul(1 << (tries - 1).min(16)).min(*longest_wait);
            let wait = retry_after.unwrap_or_else(doubled);
            if tries >= *most || wait > *longest_wait {
                return Err(HubError::Unreachable { url: self.url_of(subject), tries, reason, retry_after });
            }
            self.tell(Progress::Waiting { reason: &reason, wait: Some(wait) });
            sleep(wait);
        }
    }

    /// Sends a request. Redirects within the hub are followed with the token; others without it, or not at all by `HEAD`.
    /// Returns the last headers of the hub, which describe the content, and the response.
    pub fn request(&self, head: bool, subject: Subject<'_>, extra: &[(&str, &str)]) -> Result<(HeaderMap, Response)> {
        let send = |url: &str, on_hub: bool| {
            let request = if head { self.agent.head(url) } else { self.agent.get(url) };
            let mut request = request.config().max_redirects(if on_hub { 0 } else { MAX_REDIRECTS }).build();
            for (name, value) in extra {
                request = request.header(*name, *value);
            }
            if let Some(token) = self.settings.token.as_ref().filter(|_| on_hub) {
                request = request.header(AUTHORIZATION, token.authorization());
            }
            request.call().map_err(|error| self.failure(error, subject))
        };
        let mut url = self.url_of(subject);
        let origin = url.match_indices('/').nth(2).map_or("", |(at, _)| &url[..at]).to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let response = send(&url, true)?;
            let of_hub = response.headers().clone();
            let Some(location) = of_hub.get(LOCATION).filter(|_| response.status().is_redirection()) else {
                return Ok((of_hub, self.usable(response, subject)?));
            };
            let location = String::from_utf8_lossy(location.as_bytes());
            let path = location.strip_prefix(&origin).unwrap_or(&location);
            if path.starts_with('/') && !path.starts_with("//") {
                url = format!("{origin}{path}");
            } else {
                let response = if head { response } else { self.usable(send(&location, false)?, subject)? };
                return Ok((of_hub, response));
            }
        }
        Err(self.failure(Error::TooManyRedirects, subject))
    }

    /// Passes a body on as it arrives. Fails unless 1 KiB arrives in each period, so that dripping bytes count as a stall.
    pub fn receive(&self, mut body: impl Read, mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let (stall, mut since, mut bytes) = (self.settings.patience.stall, Instant::now(), 0);
        loop {
            let count = body.read(&mut buffer).map_err(HubError::again)?;
            if count == 0 {
                return Ok(());
            }
            sink(&buffer[..count])?;
            bytes += count;
            if bytes >= MIN_BYTES {
                (since, bytes) = (Instant::now(), 0);
            } else if since.elapsed() > stall {
                return Err(HubError::again(format!("less than {MIN_BYTES} bytes arrived in {stall:?}")));
            }
        }
    }

    /// A body, or as much of it as `limit_bytes`.
    fn body(&self, response: Response, limit_bytes: u64) -> Result<Vec<u8>> {
        let (body, mut bytes) = (response.into_body().into_reader().take(limit_bytes), Vec::new());
        self.receive(body, |part| bytes.write_all(part).map_err(HubError::again))?;
        Ok(bytes)
    }

    /// The response, if it can be used; others are retried or refused.
    fn usable(&self, response: Response, subject: Subject<'_>) -> Result<Response> {
        let status = response.status();
        if [StatusCode::OK, StatusCode::PARTIAL_CONTENT, StatusCode::RANGE_NOT_SATISFIABLE].contains(&status) {
            return Ok(response);
        }
        let (hub, repo) = (self.settings.endpoint.trim_end_matches('/'), self.repo);
        let (url, headers) = (self.url_of(subject), response.headers().clone());
        let (reason, retry_after) = (format!("{status}{}", self.said(response)), retry_after(&headers));
        let advice = match self.settings.token {
            Some(_) => "the token that was sent has no access to it",
            None => "set HF_TOKEN to a token that has access",
        };
        Err(match (status.as_u16(), text_of(&headers, "x-error-code").unwrap_or_default(), subject.file) {
            (408 | 429 | 500.., ..) => HubError::Unreachable { url, tries: 1, reason, retry_after },
            (code, "GatedRepo", _) => HubError::Access(format!(
                "{repo} is gated ({code}): accept its terms at {hub}/{}, then {advice}",
                repo.page()
            )),
            (_, "RevisionNotFound", None) => {
                let revision = quoted(subject.revision);
                HubError::Absent(format!("{repo} has no revision {revision}, expected a branch, a tag or a commit"))
            }
            (404, "EntryNotFound" | "", Some(file)) => HubError::no_file(&repo.to_string(), file, subject.revision),
            (404, ..) | (_, "RepoNotFound", _) => {
                HubError::Access(format!("{hub} has no {} {repo}, or it is private: {advice}", repo.noun()))
            }
            (401 | 403, ..) => HubError::Access(format!("{url} refuses access ({reason}): {advice}")),
            _ => self.wrong(subject, reason, "200"),
        })
    }

    /// The reason that a server gives: its header, the `error` of its JSON, or its text.
    fn said(&self, response: Response) -> String {
        let header = text_of(response.headers(), "x-error-message").map(str::to_owned);
        // A body that cannot be read adds nothing to the status.
        let body = self.body(response, MAX_ERROR_BYTES).unwrap_or_default();
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        match header.as_deref().or(json["error"].as_str()).unwrap_or(String::from_utf8_lossy(&body).trim()) {
            "" => String::new(),
            html if html.starts_with('<') => ", an HTML page".to_owned(),
            text => format!(", {}", quoted(&self.redact(text))),
        }
    }

    /// The error of a request without a response.
    fn failure(&self, error: Error, subject: Subject<'_>) -> HubError {
        let expected = "at most 10 redirects, none of them away from https";
        let host = self.settings.proxy.as_ref().map_or(self.hub.host().unwrap_or_default(), Proxy::host);
        let unknown = || (host.trim_matches(['[', ']']), 80).to_socket_addrs().is_err();
        match error {
            Error::TooManyRedirects => self.wrong(subject, "with more than 10 redirects", expected),
            Error::RequireHttpsOnly(_) => self.wrong(subject, "with a redirect from https to http", expected),
            Error::BadUri(_) | Error::Http(_) => {
                self.wrong(subject, "with a redirect to neither http nor https", expected)
            }
            // Without a network or with a wrong name, another try fails in the same way.
            Error::Io(_) | Error::HostNotFound if unknown() => HubError::NoSuchHost(host.to_owned()),
            error => HubError::again(self.redact(&error.to_string())),
        }
    }

    pub fn wrong(&self, subject: Subject<'_>, found: impl ToString, expected: &'static str) -> HubError {
        HubError::Answer { url: self.url_of(subject), found: self.redact(&found.to_string()), expected }
    }

    fn url_of(&self, Subject { revision, file }: Subject<'_>) -> String {
        let (hub, repo) = (self.settings.endpoint.trim_end_matches('/'), self.repo);
        match file {
            None => format!("{hub}/api/{}/revision/{}", repo.api(), percent_encoded(revision, "")),
            Some(file) => format!("{hub}/{}/resolve/{revision}/{}", repo.page(), percent_encoded(file, "/")),
        }
    }

    /// `text` without the token.
    fn redact(&self, text: &str) -> String {
        self.settings.token.as_ref().map_or_else(|| text.to_owned(), |token| token.redact(text))
    }
}

/// `text` with all bytes escaped but unreserved ones and those in `kept`.
fn percent_encoded(text: &str, kept: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.as_bytes().contains(&byte);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_of_https_leads_only_to_https() {
        let (settings, mut ignore) = (HubSettings::new("cache".into()), |_: Progress<'_>| ());
        assert!(Client::new(&settings, Repo::model("org/name"), &mut ignore).unwrap().agent.config().https_only());
    }
}
