//! URLs: where a redirect leads, and whether it leaves the hub.

use ureq::http::Uri;

use super::error::HubError;

/// An absolute http or https URL.
#[derive(Debug, Clone)]
pub(super) struct Address {
    text: String,
    https: bool,
    host: String,
    port: u16,
}

impl Address {
    /// The URL of a hub, without a slash at the end.
    ///
    /// # Errors
    /// [`HubError::Endpoint`].
    pub fn of_hub(endpoint: &str) -> Result<Self, HubError> {
        let wrong = |rule: String| HubError::Endpoint { rule };
        let address = Self::parse(endpoint.trim_end_matches('/')).map_err(|rule| wrong(format!("leads {rule}")))?;
        match address.text.contains(['?', '#']) {
            true => Err(wrong("has a query".into())),
            false => Ok(address),
        }
    }

    /// # Errors
    /// What is wrong, to follow "redirects" or "leads".
    pub fn parse(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|_| "to what is no address".to_owned())?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err("to what is no absolute address".to_owned());
        };
        let https = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err("to neither http nor https".to_owned()),
        };
        if authority.as_str().contains('@') {
            return Err("to an address with a user name".to_owned());
        }
        let port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
        Ok(Self { text: text.to_owned(), https, host: authority.host().to_ascii_lowercase(), port })
    }

    /// Resolves a `Location` header.
    ///
    /// # Errors
    /// Why it is not followed.
    pub fn to(&self, location: &str) -> Result<Self, String> {
        let scheme = if self.https { "https" } else { "http" };
        let path_start = self.text.find("://").map_or(0, |at| at + 3);
        let origin_end = self.text[path_start..].find(['/', '?', '#']).map_or(self.text.len(), |at| path_start + at);
        let origin = &self.text[..origin_end];
        let absolute = if location.contains("://") {
            location.to_owned()
        } else if location.starts_with("//") {
            format!("{scheme}:{location}")
        } else if location.starts_with('/') {
            format!("{origin}{location}")
        } else {
            let path = self.text[origin_end..].split(['?', '#']).next().unwrap_or("");
            let directory = path.rfind('/').map_or("/", |at| &path[..=at]);
            format!("{origin}{directory}{location}")
        };
        // Fragments are not sent.
        let next = Self::parse(absolute.split('#').next().unwrap_or(&absolute))?;
        match self.https && !next.https {
            true => Err("from https to http".to_owned()),
            false => Ok(next),
        }
    }

    /// Whether scheme, host and port are equal. Only then may both get the token.
    pub fn same_origin(&self, other: &Self) -> bool {
        (self.https, &self.host, self.port) == (other.https, &other.host, other.port)
    }

    /// The URL of `path` below this one.
    pub fn join(&self, path: &str) -> String {
        format!("{}/{path}", self.text)
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// A URL without its query, which may be signed.
pub(super) fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or(url)
}

/// `text` with all bytes escaped but unreserved ones and those in `kept`.
pub(super) fn percent_encoded(text: &str, kept: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.as_bytes().contains(&byte);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_one_segment_of_a_url_and_a_file_may_be_several() {
        assert_eq!(percent_encoded("refs/pr/1", ""), "refs%2Fpr%2F1");
        assert_eq!(percent_encoded("a/b c?.gguf", "/"), "a/b%20c%3F.gguf");
    }

    #[test]
    fn a_signed_query_is_not_shown() {
        assert_eq!(without_query("https://cdn.example/x?Signature=s#f"), "https://cdn.example/x");
    }

    #[test]
    fn a_location_is_resolved() {
        let here = Address::parse("https://hub.example/a/b/c?x=1").unwrap();
        let cases = [
            ("https://cdn.example/z?s=1#f", "https://cdn.example/z?s=1"),
            ("//cdn.example/z", "https://cdn.example/z"),
            ("/z", "https://hub.example/z"),
            ("z", "https://hub.example/a/b/z"),
        ];
        for (location, absolute) in cases {
            assert_eq!(here.to(location).unwrap().as_str(), absolute);
        }
        assert_eq!(here.to("http://hub.example/").unwrap_err(), "from https to http");
        assert!(here.to("ftp://hub.example/").unwrap_err().contains("neither"));
        assert!(here.to("https://me:pass@hub.example/").is_err());
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let hub = Address::parse("https://hub.example").unwrap();
        for same in ["https://hub.example:443/x", "https://HUB.example"] {
            assert!(hub.same_origin(&Address::parse(same).unwrap()), "{same}");
        }
        for other in
            ["http://hub.example", "https://hub.example:444", "https://evil-hub.example", "https://hub.example.evil"]
        {
            assert!(!hub.same_origin(&Address::parse(other).unwrap()), "{other}");
        }
    }

    #[test]
    fn the_password_of_an_endpoint_is_not_shown() {
        assert_eq!(Address::of_hub("https://hub.example/").unwrap().join("a"), "https://hub.example/a");
        for wrong in ["", "huggingface.co", "file:///x", "https://me:secret@hub.example", "https://hub.example/?a"] {
            let message = Address::of_hub(wrong).unwrap_err().to_string();
            assert!(message.contains("expected an address") && !message.contains("secret"), "{message}");
        }
    }
}
