//! Downloads one file into the cache: resumed where it was cut, checked by size and hash, named only when complete.

use std::io::Read;

use ureq::http::StatusCode;

use super::cache::RepoCache;
use super::client::Client;
use super::error::HubError;
use super::partial::{Partial, sha256_of};
use super::progress::Progress;
use super::response::{Answer, Content, content_range, plain_etag, text_of};
use super::retry::{Failure, Stop, Trouble, retry};

/// Progress after which failures are counted from zero.
const PROGRESS_BYTES: u64 = 1 << 20;

/// Bytes read and written at once.
const BUFFER_BYTES: usize = 256 << 10;

/// How often the content of a file in one commit may change.
const MAX_CHANGES: usize = 5;

/// Downloads the files of one commit.
pub(super) struct Transfer<'a> {
    pub client: &'a Client<'a>,
    pub cache: &'a RepoCache,
    pub repo: &'a str,
    pub commit: &'a str,
}

/// The result of an attempt.
enum Fetched {
    Complete,
    /// The hub now gives another content.
    Changed,
}

impl Transfer<'_> {
    /// The content that a file should have.
    pub fn content(&self, file: &str, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Content, HubError> {
        self.client.content(self.repo, self.commit, file, progress)
    }

    /// Bytes of the file still to download.
    pub fn missing_bytes(&self, content: &Content) -> Result<u64, HubError> {
        let size = content.size_bytes.unwrap_or(0);
        let arrived = self.cache.incomplete(&content.etag).metadata().map_or(0, |file| file.len());
        Ok(if self.has(content, false)? { 0 } else { size.saturating_sub(arrived) })
    }

    /// Puts the file into the snapshot.
    pub fn fetch(&self, file: &str, content: Content, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), HubError> {
        let mut content = content;
        for _ in 0..MAX_CHANGES {
            match self.fetch_content(file, &content, progress)? {
                Fetched::Complete => return Ok(self.cache.link(self.commit, file, &content.etag)?),
                Fetched::Changed => content = self.content(file, progress)?,
            }
        }
        let found = format!("with another ETag for {file:?} each time");
        Err(HubError::Answer { url: self.repo.to_owned(), found, expected: "one content for one commit" })
    }

    fn fetch_content(
        &self,
        file: &str,
        content: &Content,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Fetched, HubError> {
        let etag = &content.etag;
        let busy = "another download of this file is at work";
        let _lock = self.cache.lock(etag, || progress(Progress::Waiting { reason: busy, wait: None }))?;
        progress(Progress::File { name: file, size_bytes: content.size_bytes });
        if self.has(content, self.client.settings.verify)? {
            return Ok(Fetched::Complete);
        }
        // Without a sha256 nothing shows that the bytes are of the same file.
        let partial = Partial::open(&self.cache.incomplete(etag), content.sha256().is_some())?;
        let mut download =
            Download { transfer: self, file, content, resumed: partial.len() > 0, partial, source: None };
        if let Fetched::Changed = download.run(progress)? {
            return Ok(Fetched::Changed);
        }
        download.partial.finish(&self.cache.blob(etag))?;
        Ok(Fetched::Complete)
    }

    /// Whether the cache has the content. The size is always compared, the hash only to `verify`.
    fn has(&self, content: &Content, verify: bool) -> Result<bool, HubError> {
        let blob = self.cache.blob(&content.etag);
        let Ok(found) = blob.metadata() else { return Ok(false) };
        if !found.is_file() || content.size_bytes.is_some_and(|size| size != found.len()) {
            return Ok(false);
        }
        match content.sha256().filter(|_| verify) {
            Some(expected) => Ok(sha256_of(&blob)? == expected),
            None => Ok(true),
        }
    }
}

/// The download of one file.
struct Download<'a> {
    transfer: &'a Transfer<'a>,
    file: &'a str,
    content: &'a Content,
    partial: Partial,
    /// Whether bytes of an earlier attempt are kept.
    resumed: bool,
    /// The ETag of the server that sent the bytes, which may not be the hub.
    source: Option<String>,
}

impl Download<'_> {
    fn run(&mut self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Fetched, HubError> {
        let mut best = self.partial.len();
        let fetched = retry(&self.transfer.client.settings.patience, progress, |progress| {
            let mut fetched = self.attempt(progress).and_then(|fetched| self.checked(fetched));
            if let Err(Trouble::Again(failure)) = &mut fetched
                && self.partial.len() >= best + PROGRESS_BYTES
            {
                (best, failure.advanced) = (self.partial.len(), true);
            }
            fetched
        });
        fetched.map_err(|stop| match stop {
            Stop::GaveUp { tries, failure: Failure { reason, .. } } if self.partial.len() > 0 => HubError::Incomplete {
                file: self.file.to_owned(),
                found_bytes: self.partial.len(),
                expected_bytes: self.content.size_bytes,
                tries,
                reason,
            },
            stop => {
                let Transfer { client, repo, commit, .. } = self.transfer;
                stop.of_request(client.url_of(repo, commit, self.file))
            }
        })
    }

    /// One request for the rest of the file.
    fn attempt(&mut self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Fetched, Trouble> {
        let size = self.content.size_bytes;
        if size.is_some_and(|size| self.partial.len() > size) {
            self.partial.restart()?;
        }
        if size == Some(self.partial.len()) && self.partial.len() > 0 {
            return Ok(Fetched::Complete);
        }
        let Transfer { client, repo, commit, .. } = self.transfer;
        self.resumed = self.partial.len() > 0;
        let answer = client.open(repo, commit, self.file, self.partial.len(), self.source.as_deref())?;
        match &answer.content {
            Some(content) if content.etag == self.content.etag => {}
            Some(_) => return Ok(Fetched::Changed),
            None => return Err(Trouble::again("an answer without ETag")),
        }
        self.align(&answer)?;
        self.receive(answer, progress)?;
        match size.filter(|size| *size != self.partial.len()) {
            Some(_) => Err(Trouble::again("the transfer ended early")),
            None => Ok(Fetched::Complete),
        }
    }

    /// Checks that the bytes to come continue those on disk, or restarts.
    fn align(&mut self, answer: &Answer) -> Result<(), Trouble> {
        let source = text_of(&answer.headers, "etag").filter(|etag| !etag.starts_with("W/")).map(str::to_owned);
        let (from, size) = (self.partial.len(), self.content.size_bytes);
        let announced = match answer.status {
            StatusCode::PARTIAL_CONTENT => {
                let range = text_of(&answer.headers, "content-range").and_then(content_range);
                let other = |before: &String| source.as_ref().is_some_and(|now| plain_etag(now) != plain_etag(before));
                if range.is_none_or(|(start, _)| start != from) || self.source.as_ref().is_some_and(other) {
                    self.restart()?;
                    return Err(Trouble::again("the part that came does not belong to the part that is there"));
                }
                range.and_then(|(_, total)| total)
            }
            StatusCode::OK => {
                self.restart()?;
                text_of(&answer.headers, "content-length").and_then(|text| text.parse().ok())
            }
            _ => {
                self.restart()?;
                return Err(Trouble::again(format!("{} for a range", answer.status)));
            }
        };
        self.source = source;
        match (announced, size) {
            (Some(announced), Some(size)) if announced != size => {
                Err(Trouble::again(format!("a file of {announced} bytes is announced, expected {size}")))
            }
            _ => Ok(()),
        }
    }

    fn restart(&mut self) -> Result<(), Trouble> {
        (self.resumed, self.source) = (false, None);
        Ok(self.partial.restart()?)
    }

    /// Writes the bytes as they come.
    fn receive(&mut self, mut answer: Answer, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), Trouble> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = answer.body.read(&mut buffer).map_err(Trouble::again)?;
            if count == 0 {
                return Ok(());
            }
            if self.content.size_bytes.is_some_and(|size| self.partial.len() + count as u64 > size) {
                self.restart()?;
                return Err(Trouble::again("more bytes came than the file has"));
            }
            self.partial.write(&buffer[..count])?;
            progress(Progress::Arrived { bytes: self.partial.len() });
        }
    }

    /// Checks the hash of a complete file. If parts of two attempts do not fit together, the file is downloaded once more.
    fn checked(&mut self, fetched: Fetched) -> Result<Fetched, Trouble> {
        let expected = match (&fetched, self.content.sha256()) {
            (Fetched::Complete, Some(expected)) => expected.to_owned(),
            _ => return Ok(fetched),
        };
        let found = self.partial.sha256();
        if found == expected {
            return Ok(fetched);
        }
        if self.resumed {
            self.restart()?;
            return Err(Trouble::again(format!("sha256 {found} after resuming an earlier part")));
        }
        let kept = self.transfer.cache.blob(&format!("{}.damaged", self.content.etag));
        self.partial.put_aside(&kept)?;
        Err(HubError::Hash { file: self.file.to_owned(), found, expected, kept }.into())
    }
}
