//! How long ago a time of the API was.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The age of an RFC 3339 time in UTC, in its largest unit (`5s`, `12m`, `3h`, `40d`); `-` when it is none.
pub(crate) fn age(time: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    match unix_seconds(time).and_then(|then| i64::try_from(now).ok().map(|now| now.saturating_sub(then).max(0))) {
        None => "-".into(),
        Some(s @ 0..60) => format!("{s}s"),
        Some(s @ 60..3_600) => format!("{}m", s / 60),
        Some(s @ 3_600..172_800) => format!("{}h", s / 3_600),
        Some(s) => format!("{}d", s / 86_400),
    }
}

/// Seconds since 1970 of `YYYY-MM-DDTHH:MM:SS[.fraction]Z`.
fn unix_seconds(time: &str) -> Option<i64> {
    let bytes = time.as_bytes();
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = time.get(from..to)?;
        if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
    };
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if !time.ends_with('Z') || separators.iter().any(|(at, byte)| bytes.get(*at) != Some(byte)) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    Some(days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// Days of the proleptic Gregorian calendar, counted in years that begin in March so that the leap day comes last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_utc_times() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2026-11-23T14:56:09.123456Z", 1_795_445_769),
        ] {
            assert_eq!(unix_seconds(text), Some(seconds), "{text}");
        }
        for bad in
            ["", "yesterday", "2026-11-23", "2026-13-01T00:00:00Z", "2026-11-23T14:56:09+01:00", "é026-11-23T14:56:09Z"]
        {
            assert_eq!(unix_seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_future_is_now() {
        assert_eq!(age("2999-01-01T00:00:00Z"), "0s");
        assert!(age("1970-01-01T00:00:00Z").ends_with('d'));
        assert_eq!(age("soon"), "-");
    }
}
