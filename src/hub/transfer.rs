//! Downloads one file into the cache: resumed where it was cut, checked by size and hash, named only when complete.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

use sha2::{Digest, Sha256};
use ureq::http::StatusCode;

use super::client::{Client, Response, Subject};
use super::error::{HubError, Result};
use super::headers::{Content, content_range, etag_of, number_of, text_of};
use super::progress::Progress;
use crate::error::FileError;
use crate::output::disk::{disk, parent_of};
use crate::output::read::{hexadecimal, read_through};

/// Progress after which failures are counted from zero.
const PROGRESS_BYTES: u64 = 1 << 20;
/// How often the content of a file in one commit may change.
const MAX_CHANGES: usize = 5;

impl Client<'_> {
    /// Bytes of a content still to download.
    pub fn missing_bytes(&self, content: &Content) -> u64 {
        let incomplete = self.cache.blobs.join(format!("{}.incomplete", content.etag));
        let arrived = incomplete.metadata().map_or(0, |file| file.len());
        if self.has(content) { 0 } else { content.size_bytes.unwrap_or(0).saturating_sub(arrived) }
    }

    /// Puts a file of this content into the snapshot of a commit.
    pub fn fetch(&self, commit: &str, file: &str, mut content: Content) -> Result<()> {
        let subject = Subject { revision: commit, file: Some(file) };
        for _ in 0..MAX_CHANGES {
            if self.fetch_content(subject, &content)? {
                return Ok(self.cache.link(commit, file, &content.etag)?);
            }
            content = self.content(commit, file)?;
        }
        Err(self.wrong(subject, "with another ETag each time", "one content for one commit"))
    }

    /// Puts a content into the cache; `false` if the hub now gives another for the file.
    fn fetch_content(&self, subject: Subject<'_>, content: &Content) -> Result<bool> {
        let reason = "another download of this file is at work";
        let _lock = self.cache.lock(&content.etag, || self.tell(Progress::Waiting { reason, wait: None }))?;
        self.tell(Progress::File { name: subject.file.unwrap_or_default(), size_bytes: content.size_bytes });
        if self.has(content) && (!self.settings.verify || self.verified(content)?) {
            return Ok(true);
        }
        let mut download = Download::open(self, subject, content)?;
        let mut best = download.len;
        self.retry(subject, |tries| {
            let mut fetched = download.attempt();
            if download.len >= best + PROGRESS_BYTES {
                (best, *tries) = (download.len, 0);
            }
            if let Err(HubError::Unreachable { reason, .. }) = &mut fetched {
                let of = content.size_bytes.map_or(String::new(), |size| format!(" of {size}"));
                *reason = format!("{}{of} bytes arrived: {reason}", download.len);
            }
            fetched
        })
    }

    /// Whether the cache has a content of this size.
    fn has(&self, content: &Content) -> bool {
        let blob = self.cache.blobs.join(&content.etag).metadata();
        blob.is_ok_and(|file| file.is_file() && content.size_bytes.is_none_or(|size| size == file.len()))
    }

    /// Whether a content in the cache has its hash, if that is a sha256.
    fn verified(&self, content: &Content) -> Result<bool, FileError> {
        let (blob, Some(expected)) = (self.cache.blobs.join(&content.etag), content.sha256()) else { return Ok(true) };
        let (hash, _) = File::open(&blob).and_then(|file| hashed(&file)).map_err(FileError::io(&blob))?;
        Ok(hexadecimal(&hash.finalize()) == expected)
    }
}

/// The download of one file.
struct Download<'a, 'c> {
    client: &'a Client<'c>,
    subject: Subject<'a>,
    content: &'a Content,
    /// The file of the bytes so far.
    path: PathBuf,
    file: File,
    hash: Sha256,
    len: u64,
    /// The ETag of the server that sent the bytes, which may not be the hub.
    source: Option<String>,
}

impl<'a, 'c> Download<'a, 'c> {
    /// Opens what an earlier download left.
    fn open(client: &'a Client<'c>, subject: Subject<'a>, content: &'a Content) -> Result<Self, FileError> {
        let path = client.cache.blobs.join(format!("{}.incomplete", content.etag));
        let open = || {
            let file = OpenOptions::new().read(true).append(true).create(true).open(&path)?;
            // Without a sha256 nothing shows that the bytes are of the same file.
            if content.sha256().is_none() {
                file.set_len(0)?;
            }
            hashed(&file).map(|(hash, len)| (file, hash, len))
        };
        let (file, hash, len) = open().map_err(FileError::io(&path))?;
        Ok(Self { client, subject, content, path, file, hash, len, source: None })
    }

    /// Requests the rest of the file, checks the whole and gives it its name; `false` if the hub now gives another content.
    fn attempt(&mut self) -> Result<bool> {
        let size = self.content.size_bytes;
        if size.is_some_and(|size| self.len > size) {
            self.restart()?;
        }
        let mut resumed = self.len > 0;
        if !resumed || size != Some(self.len) {
            let range = format!("bytes={}-", self.len);
            let mut headers = Vec::new();
            if resumed {
                headers.push(("Range", range.as_str()));
                headers.extend(self.source.as_deref().map(|etag| ("If-Range", etag)));
            }
            let (of_hub, response) = self.client.request(false, self.subject, &headers)?;
            match etag_of(&of_hub) {
                None => return Err(HubError::again("an answer without ETag")),
                Some(etag) if etag != self.content.etag => return Ok(false),
                Some(_) => self.align(&response)?,
            }
            resumed = self.len > 0;
            self.receive(response)?;
        }
        let found = hexadecimal(&self.hash.clone().finalize());
        match self.content.sha256().filter(|expected| *expected != found) {
            None => {
                self.finish()?;
                Ok(true)
            }
            Some(_) if resumed => {
                self.restart()?;
                Err(HubError::again(format!("sha256 {found} after resuming an earlier part")))
            }
            Some(expected) => {
                let (kept, file) = (self.path.with_extension("damaged"), self.subject.file.unwrap_or_default());
                fs::rename(&self.path, &kept).map_err(FileError::io(&kept))?;
                Err(HubError::Hash { file: file.to_owned(), found, expected: expected.to_owned(), kept })
            }
        }
    }

    /// Checks that the bytes to come continue those on disk, or start the file.
    fn align(&mut self, response: &Response) -> Result<()> {
        let headers = response.headers();
        let source = text_of(headers, "etag").filter(|etag| !etag.starts_with("W/")).map(str::to_owned);
        let other = self.source.is_some() && source.is_some() && self.source != source;
        let total = match (response.status(), content_range(headers)) {
            (StatusCode::PARTIAL_CONTENT, Some((start, total))) if start == self.len && !other => total,
            (StatusCode::OK, _) => {
                self.restart()?;
                number_of(headers, "content-length")
            }
            (status, _) => {
                self.restart()?;
                return Err(HubError::again(format!("{status} does not continue the part that is there")));
            }
        };
        self.source = source;
        if let (Some(total), Some(size)) = (total, self.content.size_bytes)
            && total != size
        {
            return Err(HubError::again(format!("a file of {total} bytes is announced, expected {size}")));
        }
        Ok(())
    }

    /// Writes the bytes as they come.
    fn receive(&mut self, response: Response) -> Result<()> {
        let size = self.content.size_bytes;
        self.client.receive(response.into_body().into_reader(), |bytes| {
            if size.is_some_and(|size| self.len + bytes.len() as u64 > size) {
                self.restart()?;
                return Err(HubError::again("more bytes came than the file has"));
            }
            self.file.write_all(bytes).map_err(FileError::io(&self.path))?;
            self.hash.update(bytes);
            self.len += bytes.len() as u64;
            self.client.tell(Progress::Arrived(self.len));
            Ok(())
        })?;
        match size.is_some_and(|size| size != self.len) {
            true => Err(HubError::again("the transfer ended early")),
            false => Ok(()),
        }
    }

    /// Empties the file.
    fn restart(&mut self) -> Result<(), FileError> {
        self.file.set_len(0).map_err(FileError::io(&self.path))?;
        (self.hash, self.len, self.source) = (Sha256::new(), 0, None);
        Ok(())
    }

    /// Syncs the file to disk and gives it its final name.
    fn finish(&self) -> Result<(), FileError> {
        let name = self.path.with_extension("");
        let finished = self.file.sync_all().and_then(|()| fs::rename(&self.path, &name));
        finished.and_then(|()| disk().sync_directory(parent_of(&name))).map_err(FileError::io(&name))
    }
}

/// The hash and the size of a file.
fn hashed(file: &File) -> io::Result<(Sha256, u64)> {
    let (mut hash, mut len) = (Sha256::new(), 0);
    read_through(file, &mut |bytes| len += bytes, &mut |bytes| hash.update(bytes))?;
    Ok((hash, len))
}
