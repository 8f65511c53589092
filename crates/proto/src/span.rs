//! Spans of time as people write them: `500ms`, `90s`, `30m`, `2h`, `7d`; a bare number is seconds.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, time::Duration};

/// Span of time. In JSON it is the text a person would write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
#[serde(try_from = "String", into = "String")]
pub struct Span(Duration);

/// Error of parsing a span.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid time {text:?}: write a whole number with ms, s, m, h or d (a bare number is seconds), such as 30m")]
pub struct InvalidSpan {
    text: String,
}

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// Longest span, in milliseconds: ten years, so that no sum with a time of this century overflows.
const LONGEST: u64 = 3_650 * DAY;
const UNITS: [(u64, &str); 5] = [(DAY, "d"), (HOUR, "h"), (MINUTE, "m"), (SECOND, "s"), (1, "ms")];

impl Span {
    /// `n` seconds, at most ten years.
    pub fn seconds(n: u64) -> Self {
        Self(Duration::from_millis(n.saturating_mul(SECOND).min(LONGEST)))
    }

    /// The span as a standard duration.
    pub fn duration(self) -> Duration {
        self.0
    }

    fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(LONGEST)
    }
}

impl FromStr for Span {
    type Err = InvalidSpan;

    fn from_str(text: &str) -> Result<Self, InvalidSpan> {
        let error = || InvalidSpan { text: text.chars().take(40).collect() };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = if unit.is_empty() { "s" } else { unit };
        let factor = UNITS.iter().find(|(_, name)| *name == unit).ok_or_else(error)?.0;
        let number: u64 = number.parse().map_err(|_| error())?;
        let millis = number.checked_mul(factor).filter(|millis| *millis <= LONGEST).ok_or_else(error)?;
        Ok(Self(Duration::from_millis(millis)))
    }
}

impl fmt::Display for Span {
    /// The largest unit in which it is whole, so that it reads back as the same span: `90s`, `2h`, `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.millis();
        let whole = UNITS.iter().find(|(unit, _)| millis >= *unit && millis.is_multiple_of(*unit));
        let (unit, name) = whole.copied().unwrap_or((SECOND, "s"));
        f.pad(&format!("{}{name}", millis / unit))
    }
}

impl TryFrom<String> for Span {
    type Error = InvalidSpan;

    fn try_from(text: String) -> Result<Self, InvalidSpan> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write_and_writes_it_back() {
        for (text, millis, shown) in [
            ("500ms", 500, "500ms"),
            ("90", 90_000, "90s"),
            ("90s", 90_000, "90s"),
            ("30m", 1_800_000, "30m"),
            ("120m", 7_200_000, "2h"),
            ("7d", 604_800_000, "7d"),
            ("0", 0, "0s"),
            ("3650d", LONGEST, "3650d"),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!((span.millis(), span.to_string().as_str()), (millis, shown), "{text}");
            assert_eq!(shown.parse::<Span>().unwrap(), span);
            assert_eq!(serde_json::from_value::<Span>(serde_json::to_value(span).unwrap()).unwrap(), span);
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in ["", "s", "-1", "+1", "1.5h", "1 h", "1w", "3651d", "18446744073709551615", "99999999999999999999d"]
        {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
