//! Which failures are retried, and how long to wait.

use std::time::Duration;

use ureq::http::HeaderMap;

use super::error::HubError;
use super::progress::Progress;
use super::response::text_of;
use super::settings::Patience;
use crate::error::FileError;

/// A failed attempt.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Another attempt may succeed.
    Again(Failure),
    /// No other attempt will.
    Final(HubError),
}

/// Why an attempt failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub reason: String,
    /// The wait that the server asks for.
    pub retry_after: Option<Duration>,
    /// Whether the server says that there were too many requests.
    pub limited: bool,
    /// Whether the attempt got far enough to count the next ones from zero.
    pub advanced: bool,
}

/// Why [`retry`] ended without success.
pub(super) enum Stop {
    Error(HubError),
    GaveUp { tries: u32, failure: Failure },
}

impl Trouble {
    pub fn again(reason: impl ToString) -> Self {
        Self::Again(Failure { reason: reason.to_string(), retry_after: None, limited: false, advanced: false })
    }
}

impl From<HubError> for Trouble {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}

impl From<FileError> for Trouble {
    fn from(error: FileError) -> Self {
        Self::Final(error.into())
    }
}

impl Stop {
    /// The error, if the failures say all there is to say about a request to `url`.
    pub fn of_request(self, url: String) -> HubError {
        match self {
            Self::Error(error) => error,
            Self::GaveUp { tries, failure: Failure { limited: true, retry_after, .. } } => {
                HubError::RateLimited { url, tries, retry_after }
            }
            Self::GaveUp { tries, failure } => HubError::Unreachable { url, tries, reason: failure.reason },
        }
    }
}

/// Attempts until one succeeds, fails for good, or the patience ends. Each wait is twice the last, unless the server asks for
/// another.
pub(super) fn retry<T>(
    patience: &Patience,
    progress: &mut dyn FnMut(Progress<'_>),
    mut attempt: impl FnMut(&mut dyn FnMut(Progress<'_>)) -> Result<T, Trouble>,
) -> Result<T, Stop> {
    let mut tries = 0;
    loop {
        let failure = match attempt(progress) {
            Ok(value) => return Ok(value),
            Err(Trouble::Final(error)) => return Err(Stop::Error(error)),
            Err(Trouble::Again(failure)) => failure,
        };
        tries = if failure.advanced { 1 } else { tries + 1 };
        if tries >= patience.tries || failure.retry_after.is_some_and(|asked| asked > patience.longest_wait) {
            return Err(Stop::GaveUp { tries, failure });
        }
        let doubled = || patience.first_wait.saturating_mul(1 << (tries - 1).min(16));
        let wait = failure.retry_after.unwrap_or_else(doubled).min(patience.longest_wait);
        progress(Progress::Waiting { reason: &failure.reason, wait: Some(wait) });
        (patience.sleep)(wait);
    }
}

/// The wait that a response asks for: `Retry-After` in seconds or as a date, or the reset time of `RateLimit`.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let reset =
        || text_of(headers, "ratelimit")?.split(';').find_map(|part| part.trim().strip_prefix("t=")?.parse().ok());
    let seconds = text_of(headers, "retry-after").map(str::trim).and_then(|when| {
        // A date is relative to the server's clock.
        when.parse().ok().or_else(|| Some(seconds_of(when)?.saturating_sub(seconds_of(text_of(headers, "date")?)?)))
    });
    seconds.or_else(reset).map(Duration::from_secs)
}

/// Seconds since 1970 of a date like `Sun, 06 Nov 1994 08:49:37 GMT`.
fn seconds_of(date: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = date.split_once(", ")?.1.split(' ').collect();
    let &[day, month, year, time, "GMT"] = &words[..] else { return None };
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let clock: Vec<u64> = time.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let &[hours, minutes, seconds] = &clock[..] else { return None };
    if !(1970..10_000).contains(&year) || !(1..=31).contains(&day) || hours > 23 || minutes > 59 || seconds > 60 {
        return None;
    }
    // Years start in March, so that the leap day comes last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(pairs: &[(&'static str, &str)]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().unwrap());
        }
        retry_after(&headers).map(|wait| wait.as_secs())
    }

    #[test]
    fn dates_are_seconds_since_1970() {
        assert_eq!(seconds_of("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(seconds_of("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(seconds_of("Thu, 29 Feb 2024 23:59:59 GMT"), Some(1_709_251_199));
        for wrong in ["", "soon", "Sun, 06 Nov 1994", "Sun, 06 Nov 1994 08:49 GMT", "Sun, 06 Nov 0 08:49:37 GMT"] {
            assert_eq!(seconds_of(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn every_form_of_retry_after_is_read() {
        assert_eq!(asked(&[("retry-after", "7")]), Some(7));
        let (date, later) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:50:07 GMT");
        assert_eq!(asked(&[("retry-after", later), ("date", date)]), Some(30));
        assert_eq!(asked(&[("retry-after", date), ("date", later)]), Some(0));
        assert_eq!(asked(&[("ratelimit", "\"api\";r=0;t=55")]), Some(55));
        assert_eq!(asked(&[("retry-after", "soon")]), None);
        assert_eq!(asked(&[]), None);
    }
}
