//! Responses: what their headers say about a file, and a body that must not stall.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use ureq::http::header::{CONTENT_LENGTH, ETAG};
use ureq::http::{HeaderMap, StatusCode};

/// The content of a file, as the hub describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    /// sha256 for files in Git LFS, Git's own hash for others.
    pub etag: String,
    /// Its size, if known.
    pub size_bytes: Option<u64>,
}

impl Content {
    /// Whether the ETag can be a file name.
    pub fn is_safe(&self) -> bool {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !self.etag.is_empty() && self.etag.len() <= 128 && self.etag.bytes().all(plain)
    }

    /// The sha256 of a file in Git LFS.
    pub fn sha256(&self) -> Option<&str> {
        let hexadecimal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        Some(self.etag.as_str()).filter(|etag| etag.len() == 64 && etag.bytes().all(hexadecimal))
    }
}

/// A response with status 200, 206, 3xx (of a `HEAD`) or 416, its body not read yet.
pub(super) struct Answer {
    pub status: StatusCode,
    /// The headers of the server that sends the bytes.
    pub headers: HeaderMap,
    /// What the hub itself, which may redirect elsewhere, says about the file.
    pub content: Option<Content>,
    /// The commit that the hub says it is of.
    pub commit: Option<String>,
    pub body: Watched<ureq::BodyReader<'static>>,
}

/// What the headers of the hub say about the content of a file.
pub(super) fn content_of(headers: &HeaderMap, status: StatusCode) -> Option<Content> {
    let size = || text_of(headers, CONTENT_LENGTH.as_str()).filter(|_| status == StatusCode::OK);
    let size_bytes = text_of(headers, "x-linked-size").or_else(size).and_then(|text| text.parse().ok());
    let etag = text_of(headers, "x-linked-etag").or_else(|| text_of(headers, ETAG.as_str()))?;
    Some(Content { etag: plain_etag(etag).to_owned(), size_bytes })
}

pub(super) fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// An ETag without quotes and weakness mark.
pub(super) fn plain_etag(etag: &str) -> &str {
    etag.trim_start_matches("W/").trim_matches('"')
}

/// Start and, if known, total of `bytes 5-9/10`.
pub(super) fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, total.parse().ok()))
}

/// Bytes that must arrive in each period.
const MIN_BYTES: usize = 1 << 10;

/// A stream that fails unless 1 KiB arrives in each period, so that dripping bytes count as a stall.
pub(super) struct Watched<R> {
    inner: R,
    period: Duration,
    since: Instant,
    bytes: usize,
}

impl<R: Read> Watched<R> {
    pub fn new(inner: R, period: Duration) -> Self {
        Self { inner, period, since: Instant::now(), bytes: 0 }
    }
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes += count;
        if self.bytes >= MIN_BYTES {
            (self.since, self.bytes) = (Instant::now(), 0);
        } else if count > 0 && self.since.elapsed() > self.period {
            let message = format!("less than {MIN_BYTES} bytes arrived in {:?}", self.period);
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives some bytes at a time, without end.
    struct Dripping(usize);

    impl Read for Dripping {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            std::thread::sleep(Duration::from_millis(1));
            Ok(self.0.min(buffer.len()))
        }
    }

    #[test]
    fn a_dripping_stream_fails_and_a_flowing_one_does_not() {
        let period = Duration::from_millis(20);
        let mut dripping = Watched::new(Dripping(1), period);
        let error = io::copy(&mut dripping, &mut io::sink()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let mut flowing = Watched::new(Dripping(2048), period).take(200 * 2048);
        assert_eq!(io::copy(&mut flowing, &mut io::sink()).unwrap(), 200 * 2048);
    }

    #[test]
    fn an_etag_is_plain_text() {
        for etag in ["\"abc\"", "W/\"abc\"", "abc"] {
            assert_eq!(plain_etag(etag), "abc");
        }
    }

    #[test]
    fn a_range_has_a_start_and_perhaps_a_total() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for wrong in ["bytes */10", "5-9/10", "bytes 5/10", ""] {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }
}
