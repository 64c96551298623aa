//! Progress of a download.

use std::time::Duration;

/// An event of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// The revision was resolved to this commit.
    Resolved(&'a str),
    /// A file begins.
    File {
        /// Its path in the repository.
        name: &'a str,
        /// Its size, if known.
        size_bytes: Option<u64>,
    },
    /// So many bytes of the file are on disk, from its start; fewer than before if it had to start again.
    Arrived(u64),
    /// The download waits.
    Waiting {
        /// Why.
        reason: &'a str,
        /// How long, if known.
        wait: Option<Duration>,
    },
}
