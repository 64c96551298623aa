//! Requests to the hub: redirects are followed by hand, and only the hub gets the token.

use std::collections::BTreeSet;
use std::io::Read;

use serde::Deserialize;
use ureq::http::header::{AUTHORIZATION, LOCATION};
use ureq::http::{Response, StatusCode};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body};

use super::address::{Address, percent_encoded, without_query};
use super::error::HubError;
use super::lookup::{Lookup, NoSuchHost};
use super::names::{is_commit, is_safe};
use super::progress::Progress;
use super::reference::HubReference;
use super::refusal::{Subject, message_of, refusal};
use super::response::{Answer, Content, Watched, content_of, text_of};
use super::retry::{Failure, Trouble, retry, retry_after};
use super::settings::HubSettings;

/// Cap on the list of a model's files.
const MAX_LIST_BYTES: u64 = 32 << 20;

/// Cap on redirects.
const MAX_REDIRECTS: usize = 10;

/// Sends requests to one hub.
pub(super) struct Client<'a> {
    pub settings: &'a HubSettings,
    agent: Agent,
    hub: Address,
}

impl<'a> Client<'a> {
    /// # Errors
    /// [`HubError::Endpoint`].
    pub fn new(settings: &'a HubSettings) -> Result<Self, HubError> {
        let hub = Address::of_hub(&settings.endpoint)?;
        let stall = Some(settings.patience.stall);
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(settings.proxy.clone())
            .user_agent(concat!("deepwide/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(stall)
            .timeout_connect(stall)
            .timeout_recv_response(stall)
            .timeout_per_read(stall)
            .timeout_per_write(stall)
            .build();
        let agent = Agent::with_parts(config, DefaultConnector::default(), Lookup::default());
        Ok(Self { settings, agent, hub })
    }

    /// The commit that a reference stands for now, and its files.
    pub fn resolve(
        &self,
        reference: &HubReference,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(String, BTreeSet<String>), HubError> {
        #[derive(Deserialize)]
        struct Model {
            sha: String,
            #[serde(default)]
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let revision = percent_encoded(reference.revision(), "");
        let url = self.hub.join(&format!("api/models/{}/revision/{revision}", reference.repo()));
        let read = |_: &mut dyn FnMut(Progress<'_>)| {
            let answer = self.follow(false, &url, &[], Subject::Model(reference))?;
            let mut text = Vec::new();
            answer.body.take(MAX_LIST_BYTES + 1).read_to_end(&mut text).map_err(Trouble::again)?;
            Ok(text)
        };
        let text = retry(&self.settings.patience, progress, read).map_err(|stop| stop.of_request(url.clone()))?;
        let wrong = |found: String| {
            let expected = "a JSON object with a commit `sha` and a list of files";
            HubError::Answer { url: url.clone(), found: self.redact(&found), expected }
        };
        if text.len() as u64 > MAX_LIST_BYTES {
            return Err(wrong(format!("more than {MAX_LIST_BYTES} bytes")));
        }
        let model: Model = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        if !is_commit(&model.sha) {
            return Err(wrong(format!("commit {:?}", model.sha)));
        }
        let files: BTreeSet<String> = model.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        match files.iter().find(|name| !is_safe(name)) {
            Some(name) => Err(HubError::UnsafeName { repo: reference.repo().to_owned(), name: self.redact(name) }),
            None => Ok((model.sha, files)),
        }
    }

    /// The content of a file of a commit.
    pub fn content(
        &self,
        repo: &str,
        commit: &str,
        file: &str,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Content, HubError> {
        let (url, subject) = (self.url_of(repo, commit, file), Subject::File { repo, commit, file });
        let ask = |_: &mut dyn FnMut(Progress<'_>)| self.follow(true, &url, &[], subject);
        let answer = retry(&self.settings.patience, progress, ask).map_err(|stop| stop.of_request(url.clone()))?;
        let wrong = |found: &str, expected| HubError::Answer { url, found: self.redact(found), expected };
        if let Some(other) = answer.commit.filter(|found| found != commit) {
            return Err(wrong(&format!("with commit {other:?}"), "the requested commit"));
        }
        match answer.content {
            None => Err(wrong("without an ETag", "one that names the content")),
            Some(content) if content.is_safe() => Ok(content),
            Some(Content { etag, .. }) => Err(HubError::UnsafeName { repo: repo.to_owned(), name: self.redact(&etag) }),
        }
    }

    /// Starts to receive a file from byte `from`; the server may start at 0 instead. `source` is the ETag of the bytes before.
    pub fn open(
        &self,
        repo: &str,
        commit: &str,
        file: &str,
        from: u64,
        source: Option<&str>,
    ) -> Result<Answer, Trouble> {
        let range = format!("bytes={from}-");
        let mut headers = Vec::new();
        if from > 0 {
            headers.push(("Range", range.as_str()));
            headers.extend(source.map(|etag| ("If-Range", etag)));
        }
        self.follow(false, &self.url_of(repo, commit, file), &headers, Subject::File { repo, commit, file })
    }

    /// The URL of a file.
    pub fn url_of(&self, repo: &str, commit: &str, file: &str) -> String {
        self.hub.join(&format!("{repo}/resolve/{commit}/{}", percent_encoded(file, "/")))
    }

    /// Sends a request and follows redirects. A `HEAD` request stops where the hub redirects to another host.
    fn follow(&self, head: bool, url: &str, headers: &[(&str, &str)], subject: Subject<'_>) -> Result<Answer, Trouble> {
        let refused =
            |rule: String| HubError::Redirect { url: without_query(url).to_owned(), rule: self.redact(&rule) };
        let mut address = Address::parse(url).map_err(refused)?;
        let (mut content, mut commit) = (None, None);
        for _ in 0..=MAX_REDIRECTS {
            let is_hub = address.same_origin(&self.hub);
            let response = self.send(head, &address, headers, is_hub)?;
            let status = response.status();
            if is_hub {
                content = content_of(response.headers(), status);
                commit = text_of(response.headers(), "x-repo-commit").map(str::to_owned);
            }
            let next = match response.headers().get(LOCATION).filter(|_| status.is_redirection()) {
                None => None,
                Some(location) => {
                    let location = location.to_str().map_err(|_| "to what is no address".to_owned());
                    Some(location.and_then(|location| address.to(location)).map_err(refused)?)
                }
            };
            match next {
                Some(next) if !head || next.same_origin(&self.hub) => address = next,
                next => {
                    let (parts, body) = response.into_parts();
                    let body = Watched::new(body.into_reader(), self.settings.patience.stall);
                    let answer = Answer { status, headers: parts.headers, content, commit, body };
                    return if next.is_some() { Ok(answer) } else { self.judge(answer, subject, url) };
                }
            }
        }
        Err(refused(format!("more than {MAX_REDIRECTS} times")).into())
    }

    fn send(
        &self,
        head: bool,
        address: &Address,
        headers: &[(&str, &str)],
        is_hub: bool,
    ) -> Result<Response<Body>, Trouble> {
        let request = if head { self.agent.head(address.as_str()) } else { self.agent.get(address.as_str()) };
        let mut request = request.header("Accept-Encoding", "identity");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = self.settings.token.as_ref().filter(|_| is_hub) {
            request = request.header(AUTHORIZATION, token.authorization());
        }
        request.call().map_err(|error| match NoSuchHost::of(&error) {
            Some(NoSuchHost { host }) => HubError::NoSuchHost { host: self.redact(host) }.into(),
            None => Trouble::again(self.redact(&error.to_string())),
        })
    }

    /// Accepts an answer that can be used; others are retried or refused.
    fn judge(&self, answer: Answer, subject: Subject<'_>, url: &str) -> Result<Answer, Trouble> {
        let status = answer.status;
        let usable = [StatusCode::OK, StatusCode::PARTIAL_CONTENT, StatusCode::RANGE_NOT_SATISFIABLE];
        if usable.contains(&status) {
            return Ok(answer);
        }
        let retry_after = retry_after(&answer.headers);
        let limited = status == StatusCode::TOO_MANY_REQUESTS;
        let code = text_of(&answer.headers, "x-error-code").unwrap_or_default().to_owned();
        let message = self.redact(&message_of(answer));
        if limited || status == StatusCode::REQUEST_TIMEOUT || status.is_server_error() {
            let reason = if message.is_empty() { status.to_string() } else { format!("{status}, {message}") };
            return Err(Trouble::Again(Failure { reason, retry_after, limited, advanced: false }));
        }
        let with_token = self.settings.token.is_some();
        Err(refusal(status.as_u16(), &code, message, with_token, subject, &self.hub, url).into())
    }

    /// `text` without the token.
    fn redact(&self, text: &str) -> String {
        self.settings.token.as_ref().map_or_else(|| text.to_owned(), |token| token.redact(text))
    }
}
