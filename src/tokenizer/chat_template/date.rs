//! Today's date as templates ask for it, by Python's `strftime`.

use std::time::{SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A time in UTC by a format of `strftime`; the directive that is not known, if there is one.
pub(super) fn strftime(time: SystemTime, format: &str) -> Result<String, String> {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let hour = second / 3600;
    let (weekday, month_name) = (DAYS[((days + 3) % 7) as usize], MONTHS[month as usize - 1]);
    let mut text = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let directive = rest.next();
        text += &match directive {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('B') => month_name.to_owned(),
            Some('b') => month_name[..3].to_owned(),
            Some('d') => format!("{day:02}"),
            Some('e') => format!("{day:2}"),
            Some('A') => weekday.to_owned(),
            Some('a') => weekday[..3].to_owned(),
            Some('H') => format!("{hour:02}"),
            Some('I') => format!("{:02}", (hour + 11) % 12 + 1),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('M') => format!("{:02}", second / 60 % 60),
            Some('S') => format!("{:02}", second % 60),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{:02}:{:02}", second / 60 % 60, second % 60),
            Some('%') => "%".to_owned(),
            other => return Err(format!("%{}", other.map(String::from).unwrap_or_default())),
        };
    }
    Ok(text)
}

/// Year, month from 1 and day from 1 of a day counted from 1970-01-01.
fn date(mut days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64, format: &str) -> Result<String, String> {
        strftime(UNIX_EPOCH + Duration::from_secs(seconds), format)
    }

    #[test]
    fn dates_are_those_of_python() {
        let all = "%Y-%m-%d %y %B %b %e %A %a %H:%M:%S %I %p %F %T 100%%";
        let expected = [
            (0, "1970-01-01 70 January Jan  1 Thursday Thu 00:00:00 12 AM 1970-01-01 00:00:00 100%"),
            (951_868_799, "2000-02-29 00 February Feb 29 Tuesday Tue 23:59:59 11 PM 2000-02-29 23:59:59 100%"),
            (1_735_646_400, "2024-12-31 24 December Dec 31 Tuesday Tue 12:00:00 12 PM 2024-12-31 12:00:00 100%"),
            (4_107_542_400, "2100-03-01 00 March Mar  1 Monday Mon 00:00:00 12 AM 2100-03-01 00:00:00 100%"),
        ];
        for (seconds, text) in expected {
            assert_eq!(at(seconds, all).as_deref(), Ok(text));
        }
    }

    #[test]
    fn unknown_directives_are_named() {
        assert_eq!(at(0, "%Q"), Err("%Q".to_owned()));
        assert_eq!(at(0, "100%"), Err("%".to_owned()));
    }
}
