//! How long a server asks to wait: `Retry-After` in seconds or as a date, or the reset time of `RateLimit`.

use std::time::Duration;

use ureq::http::HeaderMap;

/// The wait that the headers of an answer ask for.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let reset = || text("ratelimit")?.split(';').find_map(|part| part.trim().strip_prefix("t=")?.parse().ok());
    let seconds = match text("retry-after").map(str::trim) {
        // By the server's own clock, so that a wrong one here does not matter.
        Some(when) => when.parse().ok().or_else(|| Some(seconds_of(when)?.saturating_sub(seconds_of(text("date")?)?))),
        None => None,
    };
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
    // Years begin in March here, so that the leap day is the last.
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
    fn the_wait_is_read_in_each_of_its_forms() {
        assert_eq!(asked(&[("retry-after", "7")]), Some(7));
        let (date, later) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:50:07 GMT");
        assert_eq!(asked(&[("retry-after", later), ("date", date)]), Some(30));
        assert_eq!(asked(&[("retry-after", date), ("date", later)]), Some(0));
        assert_eq!(asked(&[("ratelimit", "\"api\";r=0;t=55")]), Some(55));
        assert_eq!(asked(&[("retry-after", "soon")]), None);
        assert_eq!(asked(&[]), None);
    }
}
