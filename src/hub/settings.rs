//! Where the Hub is, who asks, where files go, and how patient to be: plain values, read from nowhere.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::HubError;

/// How the Hub is used.
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// The Hub's address.
    pub endpoint: String,
    /// Who asks.
    pub token: Option<Token>,
    /// The cache shared with `huggingface_hub`, which holds `models--org--name`.
    pub cache: PathBuf,
    /// Whether the network must not be used at all.
    pub offline: bool,
    /// Whether the hash of a file that is in the cache is checked, too; its size always is.
    pub verify: bool,
    /// Whether nobody wants to see a progress bar.
    pub progress_disabled: bool,
    /// The proxy to go through.
    pub proxy: Option<ureq::Proxy>,
    /// How failures of the network are met.
    pub patience: Patience,
}

impl HubSettings {
    /// The public Hub without a token, and this cache.
    pub fn new(cache: PathBuf) -> Self {
        Self {
            endpoint: "https://huggingface.co".to_owned(),
            token: None,
            cache,
            offline: false,
            verify: false,
            progress_disabled: false,
            proxy: None,
            patience: Patience::default(),
        }
    }
}

/// How failures of the network are met.
#[derive(Clone)]
pub struct Patience {
    /// Tries without progress before giving up.
    pub tries: u32,
    /// The wait after the first failure; each further one is twice as long.
    pub first_wait: Duration,
    /// The longest wait that a server may ask for.
    pub longest_wait: Duration,
    /// How long a transfer may go without 1 KiB of progress.
    pub stall: Duration,
    /// What waits: [`std::thread::sleep`], or what a test puts in its place.
    pub sleep: Arc<dyn Fn(Duration) + Send + Sync>,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            tries: 5,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(300),
            stall: Duration::from_secs(60),
            sleep: Arc::new(std::thread::sleep),
        }
    }
}

impl fmt::Debug for Patience {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { tries, first_wait, longest_wait, stall, .. } = self;
        write!(f, "Patience({tries} tries, {first_wait:?} to {longest_wait:?}, stall {stall:?})")
    }
}

/// A token of the Hub, which is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token in a line of text; space around it is dropped.
    ///
    /// # Errors
    /// [`HubError::Token`] if it is empty or not printable ASCII.
    pub fn new(text: &str) -> Result<Self, HubError> {
        let text = text.trim();
        match !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(Self(text.to_owned())),
            false => Err(HubError::Token),
        }
    }

    /// What goes into a request.
    pub(super) fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// `text` with every occurrence of the token replaced.
    pub fn redact(&self, text: &str) -> String {
        text.replace(&self.0, "[token]")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Token([token])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_trimmed_and_shown_nowhere() {
        let token = Token::new(" hf_secret\n").unwrap();
        assert_eq!(token.authorization(), "Bearer hf_secret");
        let mut settings = HubSettings::new(PathBuf::from("cache"));
        settings.token = Some(token.clone());
        settings.proxy = Some(ureq::Proxy::new("http://user:hidden@127.0.0.1:1").unwrap());
        let shown = format!("{settings:?}");
        assert!(!shown.contains("secret") && !shown.contains("hidden"), "{shown}");
        assert_eq!(token.redact("Bearer hf_secret is wrong"), "Bearer [token] is wrong");
    }

    #[test]
    fn what_would_split_a_header_is_no_token() {
        for text in ["", " \n", "a b", "a\r\nX: y", "tökén"] {
            let error = Token::new(text).unwrap_err();
            assert!(matches!(error, HubError::Token), "{text:?}");
            assert!(text.trim().is_empty() || !error.to_string().contains(text.trim()));
        }
    }
}
