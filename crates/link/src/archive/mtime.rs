//! Modification times in archives: a tar header has whole seconds since 1970, and a PAX record `mtime` before it has
//! the rest.

/// A point in time: seconds since 1970, which may be negative, and nanoseconds after that second.
pub type UnixTime = (i64, u32);

/// Returns the value for a header: the second, or 0 for times before 1970.
#[must_use]
pub fn header_seconds((seconds, _): UnixTime) -> u64 {
    u64::try_from(seconds).unwrap_or(0)
}

/// Returns the value for a PAX record; `None` if the header alone expresses the time.
#[must_use]
pub fn to_pax((seconds, nanoseconds): UnixTime) -> Option<String> {
    if seconds >= 0 && nanoseconds == 0 {
        return None;
    }
    // A decimal number counts away from zero on both sides.
    let (sign, whole, part) = match (seconds < 0, nanoseconds) {
        (false, _) => ("", seconds.unsigned_abs(), nanoseconds),
        (true, 0) => ("-", seconds.unsigned_abs(), 0),
        (true, _) => ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds),
    };
    Some(if part == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{part:09}") })
}

/// Parses the value of any writer's PAX record; digits beyond nanoseconds are dropped.
#[must_use]
pub fn from_pax(value: &[u8]) -> Option<UnixTime> {
    let text = std::str::from_utf8(value).ok()?;
    let (before, text) = match text.strip_prefix('-') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let nanoseconds: u32 = format!("{part:0<9}")[..9].parse().ok()?;
    Some(match (before, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_back() {
        for (time, value) in [
            ((0, 0), None),
            ((12, 0), None),
            ((12, 500_000_000), Some("12.500000000")),
            ((0, 1), Some("0.000000001")),
            ((-1, 0), Some("-1")),
            ((-2, 500_000_000), Some("-1.500000000")),
            ((-1, 999_999_999), Some("-0.000000001")),
            ((i64::MIN + 1, 0), Some("-9223372036854775807")),
        ] {
            assert_eq!(to_pax(time).as_deref(), value, "{time:?}");
            if let Some(value) = value {
                assert_eq!(from_pax(value.as_bytes()), Some(time), "{value}");
            }
        }
        assert_eq!(header_seconds((-5, 0)), 0);
    }

    #[test]
    fn others_write_fewer_or_more_digits() {
        for (value, time) in
            [("7", (7, 0)), ("7.25", (7, 250_000_000)), ("7.1234567891", (7, 123_456_789)), ("-0", (0, 0))]
        {
            assert_eq!(from_pax(value.as_bytes()), Some(time), "{value}");
        }
        for bad in ["", "-", ".5", "1e3", "--1", "1.x", "99999999999999999999", "1.-5"] {
            assert_eq!(from_pax(bad.as_bytes()), None, "{bad}");
        }
    }
}
