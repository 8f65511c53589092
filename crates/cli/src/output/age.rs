//! Age of an API time.

use banger_proto::time::unix_seconds;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Formats the age of an RFC 3339 time in UTC in its largest unit (`5s`, `12m`, `3h`, `40d`); `-` if it does not parse.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_future_is_now() {
        assert_eq!(age("2999-01-01T00:00:00Z"), "0s");
        assert!(age("1970-01-01T00:00:00Z").ends_with('d'));
        assert_eq!(age("soon"), "-");
    }
}
