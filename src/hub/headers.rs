//! Response headers: identity of a file, range of a part, time to wait.

use std::time::{Duration, SystemTime};

use ureq::http::HeaderMap;

use super::reference::is_hash;

/// The content of a file, as the hub describes it.
pub(super) struct Content {
    /// sha256 for files in Git LFS, Git's own hash for others.
    pub etag: String,
    /// Its size, if known.
    pub size_bytes: Option<u64>,
}

impl Content {
    /// The sha256 of a file in Git LFS.
    pub fn sha256(&self) -> Option<&str> {
        Some(self.etag.as_str()).filter(|etag| is_hash(etag, 64))
    }
}

pub(super) fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

pub(super) fn number_of(headers: &HeaderMap, name: &str) -> Option<u64> {
    text_of(headers, name)?.trim().parse().ok()
}

/// The ETag of the content, without quotes and weakness mark.
pub(super) fn etag_of(headers: &HeaderMap) -> Option<&str> {
    let etag = text_of(headers, "x-linked-etag").or_else(|| text_of(headers, "etag"))?;
    Some(etag.trim_start_matches("W/").trim_matches('"'))
}

/// Start and, if known, total of a `Content-Range` like `bytes 5-9/10`.
pub(super) fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let (range, total) = text_of(headers, "content-range")?.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, total.parse().ok()))
}

/// The wait that a response asks for: `Retry-After` in seconds or as a date, or the reset time of `RateLimit`.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = number_of(headers, "retry-after").map(Duration::from_secs);
    // A date is relative to the server's clock.
    let until = || date_of(headers, "retry-after")?.duration_since(date_of(headers, "date")?).ok();
    let reset = || {
        let seconds = text_of(headers, "ratelimit")?.split(';').find_map(|part| part.trim().strip_prefix("t="))?;
        Some(Duration::from_secs(seconds.parse().ok()?))
    };
    seconds.or_else(until).or_else(reset)
}

/// A date like `Sun, 06 Nov 1994 08:49:37 GMT`.
fn date_of(headers: &HeaderMap, name: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = text_of(headers, name)?.trim().split(' ').collect();
    let &[_, day, month, year, time, "GMT"] = &words[..] else { return None };
    let month = 1 + MONTHS.iter().position(|name| *name == month)?;
    humantime::parse_rfc3339(&format!("{year}-{month:02}-{day}T{time}Z")).ok()
}
