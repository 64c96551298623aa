//! What the Hub answers, and what its headers tell.

use ureq::http::header::{CONTENT_LENGTH, ETAG};
use ureq::http::{HeaderMap, StatusCode};

use crate::hub::watched::Watched;

/// What the Hub tells about a file before its bytes come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hub) struct About {
    /// Its content: sha256 of Git LFS, else Git's own hash.
    pub etag: Option<String>,
    /// Its size.
    pub size_bytes: Option<u64>,
    /// The commit that it is of.
    pub(super) commit: Option<String>,
}

/// An answer with its body still to come.
pub(in crate::hub) struct Answer {
    /// 200, 206 or 416.
    pub status: StatusCode,
    /// The headers of whoever sends the bytes.
    pub headers: HeaderMap,
    /// What the Hub itself told on the way there.
    pub about: About,
    /// The bytes.
    pub body: Watched<ureq::BodyReader<'static>>,
}

impl About {
    pub(super) fn of(headers: &HeaderMap, status: StatusCode) -> Self {
        let size = || text_of(headers, CONTENT_LENGTH.as_str()).filter(|_| status == StatusCode::OK);
        Self {
            etag: text_of(headers, "x-linked-etag").or_else(|| text_of(headers, ETAG.as_str())).map(plain_etag),
            size_bytes: text_of(headers, "x-linked-size").or_else(size).and_then(|text| text.parse().ok()),
            commit: text_of(headers, "x-repo-commit").map(str::to_owned),
        }
    }
}

pub(in crate::hub) fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// An ETag without its quotes and its mark of weakness.
pub(in crate::hub) fn plain_etag(etag: &str) -> String {
    etag.trim_start_matches("W/").trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_is_plain_text() {
        for etag in ["\"abc\"", "W/\"abc\"", "abc"] {
            assert_eq!(plain_etag(etag), "abc");
        }
    }
}
