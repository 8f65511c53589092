//! Times of the API as text: RFC 3339 in UTC, and the calendar behind it.
//!
//! Dates are those of the proleptic Gregorian calendar. Years are counted from March, so that the leap day is the last
//! day of its year, and in eras of 400 years, which all have the same number of days.

/// Seconds in a day; UTC as written here has no leap seconds.
const DAY: u64 = 86_400;
/// Days in 400 years.
const ERA: u64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const BEFORE_1970: u64 = 719_468;

/// Formats seconds since 1970 as `2026-11-23T14:43:07Z`. Every number has a text: years past 9999 get more digits.
pub fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / DAY, seconds % DAY);
    let (year, month, day) = date(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Parses `YYYY-MM-DDTHH:MM:SS[.fraction]Z` into seconds since 1970, which are negative before that. `None` for any
/// other text.
pub fn unix_seconds(time: &str) -> Option<i64> {
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

/// Year, month and day that begin `days` after 1970-01-01.
fn date(days: u64) -> (u64, u64, u64) {
    let since = days + BEFORE_1970;
    let (era, day_of_era) = (since / ERA, since % ERA);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// The inverse of [`date`]; negative before 1970.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year
        - BEFORE_1970.cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_agree_with_date() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (1_795_444_987, "2026-11-23T14:43:07Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
            assert_eq!(unix_seconds(text), Some(seconds.cast_signed()), "{text}");
        }
    }

    /// Time stamps come from archives and from users' time limits, so any number may be asked for.
    #[test]
    fn every_number_has_a_text() {
        assert_eq!(rfc3339(253_402_300_800), "10000-01-01T00:00:00Z");
        assert!(rfc3339(u64::MAX).ends_with('Z'));
    }

    #[test]
    fn only_utc_times_are_parsed() {
        for (text, seconds) in [
            ("1969-12-31T23:59:59Z", -1),
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
}
