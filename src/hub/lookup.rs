//! Name resolution that distinguishes an unknown host from one that does not answer.

use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// The system's resolver.
#[derive(Debug, Default)]
pub(super) struct Lookup(DefaultResolver);

/// The host does not exist, or there is no network.
#[derive(Debug, thiserror::Error)]
#[error("no address of {host}")]
pub(super) struct NoSuchHost {
    /// Its name.
    pub host: String,
}

impl NoSuchHost {
    /// The cause of a failed request, if it is this one.
    pub fn of(error: &Error) -> Option<&Self> {
        match error {
            Error::Other(error) => error.downcast_ref(),
            _ => None,
        }
    }
}

impl Resolver for Lookup {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        self.0.resolve(uri, config, timeout).map_err(|error| match error {
            Error::Io(_) | Error::HostNotFound => {
                Error::Other(Box::new(NoSuchHost { host: uri.host().unwrap_or_default().to_owned() }))
            }
            error => error,
        })
    }
}
