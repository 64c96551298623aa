//! One file from the Hub into the cache: resumed where it was cut, checked by size and hash, named only when whole.

use std::io::Read;

use ureq::http::StatusCode;

use super::cache::RepoCache;
use super::client::{About, Answer, Client, Failure, Trouble, plain_etag, text_of};
use super::partial::{BUFFER_BYTES, Partial, sha256_of};
use super::{HubError, Progress};

/// A file that gains this much gets all its tries anew.
const PROGRESS_BYTES: u64 = 1 << 20;

/// What carries the files of one commit into the cache.
pub(super) struct Transfer<'a> {
    pub client: &'a Client<'a>,
    pub cache: &'a RepoCache,
    pub repo: &'a str,
    pub commit: &'a str,
    /// Whether the hash of a file that is there already is checked, too.
    pub verify: bool,
}

/// The content that a file should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    etag: String,
    size_bytes: Option<u64>,
}

impl Content {
    /// `None` if the ETag cannot name a file.
    fn of(etag: String, size_bytes: Option<u64>) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let names = !etag.is_empty() && etag.len() <= 128 && etag.bytes().all(plain);
        names.then_some(Self { etag, size_bytes })
    }

    /// The hash that Git LFS names its files by; other files are named by a hash of Git's own.
    fn sha256(&self) -> Option<&str> {
        let hexadecimal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        Some(self.etag.as_str()).filter(|etag| etag.len() == 64 && etag.bytes().all(hexadecimal))
    }
}

impl Transfer<'_> {
    /// What a file should be.
    pub fn content(&self, file: &str, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Content, HubError> {
        let About { etag, size_bytes, .. } = self.client.about(self.repo, self.commit, file, progress)?;
        let Some(etag) = etag else {
            let (url, found) = (format!("{}/{file}", self.repo), "without an ETag".to_owned());
            return Err(HubError::Answer { url, found, expected: "one that names the content" });
        };
        let unsafe_name = || HubError::UnsafeName { repo: self.repo.to_owned(), name: self.client.redact(&etag) };
        Content::of(etag.clone(), size_bytes).ok_or_else(unsafe_name)
    }

    /// Bytes of the file that are still to come.
    pub fn missing_bytes(&self, content: &Content) -> Result<u64, HubError> {
        let size = content.size_bytes.unwrap_or(0);
        let arrived = self.cache.incomplete(&content.etag).metadata().map_or(0, |file| file.len());
        Ok(if self.holds(content, false)? { 0 } else { size.saturating_sub(arrived) })
    }

    /// Makes the snapshot have the file.
    pub fn fetch(&self, file: &str, content: Content, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), HubError> {
        let mut content = content;
        for _ in 0..PIN_TRIES {
            match self.fetch_content(file, &content, progress)? {
                Fetched::Whole => return self.cache.link(self.commit, file, &content.etag),
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
        if self.holds(content, self.verify)? {
            return Ok(Fetched::Whole);
        }
        // Only what a hash names can be told to be the beginning of the same file.
        let partial = Partial::open(&self.cache.incomplete(etag), content.sha256().is_some())?;
        let mut receiving =
            Receiving { transfer: self, file, content, resumed: partial.len() > 0, partial, source: None };
        if let Fetched::Changed = receiving.receive(progress)? {
            return Ok(Fetched::Changed);
        }
        receiving.partial.finish(&self.cache.blob(etag))?;
        Ok(Fetched::Whole)
    }

    /// Whether the cache has the content: its size always counts, its hash where that is asked for.
    fn holds(&self, content: &Content, verify: bool) -> Result<bool, HubError> {
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

/// How often a file of one commit may change before that is called a fault.
const PIN_TRIES: usize = 5;

enum Fetched {
    Whole,
    /// The Hub tells another content now.
    Changed,
}

/// One file while it is received.
struct Receiving<'a> {
    transfer: &'a Transfer<'a>,
    file: &'a str,
    content: &'a Content,
    partial: Partial,
    /// Whether some of the bytes come from an earlier try.
    resumed: bool,
    /// The ETag of whoever sends the bytes, which need not be the Hub.
    source: Option<String>,
}

impl Receiving<'_> {
    fn receive(&mut self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Fetched, HubError> {
        let (mut tries, mut best) = (0, self.partial.len());
        loop {
            let failure = match self.attempt(progress).and_then(|fetched| self.checked(fetched)) {
                Ok(fetched) => return Ok(fetched),
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Again(failure)) => failure,
            };
            if self.partial.len() >= best + PROGRESS_BYTES {
                (best, tries) = (self.partial.len(), 0);
            }
            tries += 1;
            if !self.transfer.client.wait(tries, &failure, progress) {
                return Err(self.given_up(tries, failure));
            }
        }
    }

    /// One request, from the end of what has arrived to the end of the file.
    fn attempt(&mut self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Fetched, Trouble> {
        let size = self.content.size_bytes;
        if size.is_some_and(|size| self.partial.len() > size) {
            self.partial.restart()?;
        }
        if size == Some(self.partial.len()) && self.partial.len() > 0 {
            return Ok(Fetched::Whole);
        }
        let Transfer { client, repo, commit, .. } = self.transfer;
        self.resumed = self.partial.len() > 0;
        let answer = client.open(repo, commit, self.file, self.partial.len(), self.source.as_deref())?;
        match &answer.about.etag {
            Some(etag) if *etag == self.content.etag => {}
            Some(_) => return Ok(Fetched::Changed),
            None => return Err(Trouble::again("an answer without ETag")),
        }
        self.place(&answer)?;
        self.keep(answer, progress)?;
        match size.filter(|size| *size != self.partial.len()) {
            Some(_) => Err(Trouble::again("the transfer ended early")),
            None => Ok(Fetched::Whole),
        }
    }

    /// Makes sure that the bytes to come go on from those that are there, or begins again.
    fn place(&mut self, answer: &Answer) -> Result<(), Trouble> {
        let source = text_of(&answer.headers, "etag").filter(|etag| !etag.starts_with("W/")).map(str::to_owned);
        let (from, size) = (self.partial.len(), self.content.size_bytes);
        let announced = match answer.status {
            StatusCode::PARTIAL_CONTENT => {
                let range = text_of(&answer.headers, "content-range").and_then(content_range);
                let other = |before: &String| source.as_ref().is_some_and(|now| plain_etag(now) != plain_etag(before));
                if range.is_none_or(|(start, _)| start != from) || self.source.as_ref().is_some_and(other) {
                    self.begin_again()?;
                    return Err(Trouble::again("the part that came does not belong to the part that is there"));
                }
                range.and_then(|(_, total)| total)
            }
            StatusCode::OK => {
                self.begin_again()?;
                text_of(&answer.headers, "content-length").and_then(|text| text.parse().ok())
            }
            _ => {
                self.begin_again()?;
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

    fn begin_again(&mut self) -> Result<(), HubError> {
        (self.resumed, self.source) = (false, None);
        self.partial.restart()
    }

    /// Writes the bytes as they come.
    fn keep(&mut self, mut answer: Answer, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), Trouble> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = answer.body.read(&mut buffer).map_err(Trouble::again)?;
            if count == 0 {
                return Ok(());
            }
            if self.content.size_bytes.is_some_and(|size| self.partial.len() + count as u64 > size) {
                self.begin_again()?;
                return Err(Trouble::again("more bytes came than the file has"));
            }
            self.partial.write(&buffer[..count])?;
            progress(Progress::Arrived { bytes: self.partial.len() });
        }
    }

    /// Lets a whole file through if its hash is right. If not, parts of different tries may not fit: then once more.
    fn checked(&mut self, fetched: Fetched) -> Result<Fetched, Trouble> {
        let expected = match (&fetched, self.content.sha256()) {
            (Fetched::Whole, Some(expected)) => expected.to_owned(),
            _ => return Ok(fetched),
        };
        let found = self.partial.sha256();
        if found == expected {
            return Ok(fetched);
        }
        if self.resumed {
            self.begin_again()?;
            return Err(Trouble::again(format!("sha256 {found} after going on from an earlier part")));
        }
        let kept = self.transfer.cache.blob(&format!("{}.damaged", self.content.etag));
        self.partial.put_aside(&kept)?;
        Err(HubError::Hash { file: self.file.to_owned(), found, expected, kept }.into())
    }

    fn given_up(&self, tries: u32, failure: Failure) -> HubError {
        let Transfer { client, repo, commit, .. } = self.transfer;
        if self.partial.len() == 0 {
            return client.given_up_on_file(repo, commit, self.file, tries, failure);
        }
        HubError::Incomplete {
            file: self.file.to_owned(),
            found_bytes: self.partial.len(),
            expected_bytes: self.content.size_bytes,
            tries,
            reason: failure.reason,
        }
    }
}

/// Start and, if told, total of `bytes 5-9/10`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, total.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_a_start_and_perhaps_a_total() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for wrong in ["bytes */10", "5-9/10", "bytes 5/10", ""] {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }
}
