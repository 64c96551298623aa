//! Requests to the Hub: redirects followed by hand, failures told apart, the token sent to the Hub alone.

mod answer;
mod lookup;
mod refusal;

use std::collections::BTreeSet;
use std::io::Read;

use serde::Deserialize;
use ureq::http::Response;
use ureq::http::header::{AUTHORIZATION, LOCATION};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body};

pub(super) use answer::{About, Answer, plain_etag, text_of};
use lookup::{Lookup, NoSuchHost};
use refusal::Subject;
pub(super) use refusal::{Failure, Trouble};

use super::address::Address;
use super::files::is_safe;
use super::reference::is_commit;
use super::watched::Watched;
use super::{HubError, HubReference, HubSettings, Progress};

/// The most that is read of the list of a model's files.
const MAX_LIST_BYTES: u64 = 32 << 20;

/// The most redirects that are followed.
const MAX_REDIRECTS: usize = 10;

/// One who asks the Hub.
pub(super) struct Client<'a> {
    settings: &'a HubSettings,
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

    /// The commit that a reference means now, and the files that it has.
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
        let text = self.patiently(&url, progress, || {
            let answer = self.follow(false, &url, &[], Subject::Model(reference))?;
            let mut text = Vec::new();
            answer.body.take(MAX_LIST_BYTES + 1).read_to_end(&mut text).map_err(Trouble::again)?;
            Ok(text)
        })?;
        let wrong = |found: String| {
            let expected = "a JSON object with a commit `sha` and a list of files";
            HubError::Answer { url: shown(&url), found: self.redact(&found), expected }
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

    /// What the Hub tells about a file of a commit.
    pub fn about(
        &self,
        repo: &str,
        commit: &str,
        file: &str,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<About, HubError> {
        let url = self.url_of(repo, commit, file);
        let subject = Subject::File { repo, commit, file };
        let about = self.patiently(&url, progress, || Ok(self.follow(true, &url, &[], subject)?.about))?;
        match &about.commit {
            Some(told) if told != commit => {
                let found = self.redact(&format!("with commit {told:?}"));
                Err(HubError::Answer { url: shown(&url), found, expected: "the commit that was asked for" })
            }
            _ => Ok(about),
        }
    }

    /// Begins to receive a file, from a position on or from its start, as the server likes.
    pub fn open(
        &self,
        repo: &str,
        commit: &str,
        file: &str,
        from: u64,
        part_of: Option<&str>,
    ) -> Result<Answer, Trouble> {
        let range = format!("bytes={from}-");
        let mut headers = Vec::new();
        if from > 0 {
            headers.push(("Range", range.as_str()));
            headers.extend(part_of.map(|etag| ("If-Range", etag)));
        }
        self.follow(false, &self.url_of(repo, commit, file), &headers, Subject::File { repo, commit, file })
    }

    /// The address of a file, as shown to people and to the Hub.
    fn url_of(&self, repo: &str, commit: &str, file: &str) -> String {
        self.hub.join(&format!("{repo}/resolve/{commit}/{}", percent_encoded(file, "/")))
    }

    /// Tries until it succeeds, no other try would, or patience is at its end.
    fn patiently<T>(
        &self,
        url: &str,
        progress: &mut dyn FnMut(Progress<'_>),
        attempt: impl Fn() -> Result<T, Trouble>,
    ) -> Result<T, HubError> {
        for tries in 1.. {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Again(failure)) => {
                    if !self.wait(tries, &failure, progress) {
                        return Err(self.given_up(url, tries, failure));
                    }
                }
            }
        }
        unreachable!("patience ends before numbers do")
    }

    /// Waits before the next try; `false` if there should be none.
    pub fn wait(&self, tries: u32, failure: &Failure, progress: &mut dyn FnMut(Progress<'_>)) -> bool {
        let patience = &self.settings.patience;
        let wait = failure.retry_after.unwrap_or_else(|| patience.first_wait.saturating_mul(1 << (tries - 1).min(16)));
        if tries >= patience.tries || failure.retry_after.is_some_and(|asked| asked > patience.longest_wait) {
            return false;
        }
        progress(Progress::Waiting { reason: &failure.reason, wait: Some(wait) });
        (patience.sleep)(wait.min(patience.longest_wait));
        true
    }

    fn given_up(&self, url: &str, tries: u32, failure: Failure) -> HubError {
        let url = shown(url);
        match failure.limited {
            true => HubError::RateLimited { url, tries, retry_after: failure.retry_after },
            false => HubError::Unreachable { url, tries, reason: failure.reason },
        }
    }

    /// The failure of the last try of a file, if it says more than how many bytes arrived.
    pub fn given_up_on_file(&self, repo: &str, commit: &str, file: &str, tries: u32, failure: Failure) -> HubError {
        self.given_up(&self.url_of(repo, commit, file), tries, failure)
    }

    /// Asks, follows redirects and tells refusals apart. A `head` ends where the Hub sends away.
    fn follow(&self, head: bool, url: &str, headers: &[(&str, &str)], subject: Subject<'_>) -> Result<Answer, Trouble> {
        let mut address = Address::parse(url).map_err(|rule| self.no_redirect(url, rule))?;
        let mut about = About { etag: None, size_bytes: None, commit: None };
        for _ in 0..=MAX_REDIRECTS {
            let own = address.same_origin(&self.hub);
            let response = self.send(head, &address, headers, own)?;
            if own {
                about = About::of(response.headers(), response.status());
            }
            let location = response.headers().get(LOCATION).filter(|_| response.status().is_redirection());
            let Some(location) = location else { return self.judge(response, about, subject, url) };
            let next = location.to_str().map_err(|_| "to what is no address".to_owned());
            let next = next.and_then(|location| address.to(location)).map_err(|rule| self.no_redirect(url, rule))?;
            if head && !next.same_origin(&self.hub) {
                return Ok(self.answer(response, about));
            }
            address = next;
        }
        Err(self.no_redirect(url, format!("more than {MAX_REDIRECTS} times")))
    }

    fn send(
        &self,
        head: bool,
        address: &Address,
        headers: &[(&str, &str)],
        own: bool,
    ) -> Result<Response<Body>, Trouble> {
        let mut request = match head {
            true => self.agent.head(address.as_str()),
            false => self.agent.get(address.as_str()),
        };
        request = request.header("Accept-Encoding", "identity");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = self.settings.token.as_ref().filter(|_| own) {
            request = request.header(AUTHORIZATION, token.authorization());
        }
        request.call().map_err(|error| match NoSuchHost::of(&error) {
            Some(NoSuchHost { host }) => HubError::NoSuchHost { host: self.redact(host) }.into(),
            None => Trouble::again(self.redact(&error.to_string())),
        })
    }

    fn answer(&self, response: Response<Body>, about: About) -> Answer {
        let (parts, body) = response.into_parts();
        let body = Watched::new(body.into_reader(), self.settings.patience.stall);
        Answer { status: parts.status, headers: parts.headers, about, body }
    }

    fn no_redirect(&self, url: &str, rule: String) -> Trouble {
        HubError::Redirect { url: shown(url), rule: self.redact(&rule) }.into()
    }

    /// `text` without the token.
    pub fn redact(&self, text: &str) -> String {
        self.settings.token.as_ref().map_or_else(|| text.to_owned(), |token| token.redact(text))
    }
}

/// An address without its query, which may be signed.
fn shown(url: &str) -> String {
    url.split(['?', '#']).next().unwrap_or(url).to_owned()
}

fn percent_encoded(text: &str, kept: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.as_bytes().contains(&byte);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_one_segment_of_an_address_and_a_file_may_be_several() {
        assert_eq!(percent_encoded("refs/pr/1", ""), "refs%2Fpr%2F1");
        assert_eq!(percent_encoded("a/b c?.gguf", "/"), "a/b%20c%3F.gguf");
    }

    #[test]
    fn a_signed_query_is_not_shown() {
        assert_eq!(shown("https://cdn.example/x?Signature=s#f"), "https://cdn.example/x");
    }
}
