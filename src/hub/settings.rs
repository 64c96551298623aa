//! Settings of the hub as plain values; the command line reads them from the environment.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::error::HubError;

/// Settings of the hub.
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// URL of the hub.
    pub endpoint: String,
    /// The access token.
    pub token: Option<Token>,
    /// The cache, the directory of `models--org--name`.
    pub cache: PathBuf,
    /// Use no network.
    pub offline: bool,
    /// Also check hashes of files in the cache; sizes always are.
    pub verify: bool,
    /// Show no progress bar.
    pub progress_disabled: bool,
    /// The proxy.
    pub proxy: Option<ureq::Proxy>,
    /// Retries and timeouts.
    pub patience: Patience,
}

impl HubSettings {
    /// The public hub without a token, and this cache.
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

/// Retries and timeouts.
#[derive(Clone)]
pub struct Patience {
    /// Attempts without progress before giving up.
    pub tries: u32,
    /// The wait after the first failure; it doubles with each further one.
    pub first_wait: Duration,
    /// Cap on a wait, also on one that a server asks for.
    pub longest_wait: Duration,
    /// How long a transfer may take for 1 KiB.
    pub stall: Duration,
    /// [`std::thread::sleep`], or a replacement in tests.
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
        write!(f, "Patience({} tries, stall {:?})", self.tries, self.stall)
    }
}

/// An access token, which is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token in a line of text, trimmed.
    ///
    /// # Errors
    /// [`HubError::Argument`] if it is empty or not printable ASCII.
    pub fn new(text: &str) -> Result<Self, HubError> {
        let text = text.trim();
        match !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(Self(text.to_owned())),
            false => Err(HubError::Argument("the Hub token is no line of printable ASCII, expected hf_…".to_owned())),
        }
    }

    /// The value of the `Authorization` header.
    pub(super) fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// `text` with the token replaced.
    pub fn redact(&self, text: &str) -> String {
        text.replace(&self.0, "[token]")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Token([token])")
    }
}
