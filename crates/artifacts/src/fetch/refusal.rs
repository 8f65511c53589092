//! Parsing of a response with an error status: challenges, the pause to keep, and the beginning of its page.

use super::{Address, Refused};
use std::time::{Duration, SystemTime};
use ureq::http::{HeaderMap, HeaderName, StatusCode, header};

/// Upper bound of the bytes read of an error page, and of the characters of it that are shown.
pub(super) const EXCERPT: usize = 512;
pub(super) const SHOWN: usize = 160;
/// Upper bound of the characters of a header's value that are used, and of the fields with challenges.
pub(super) const MAX_VALUE: usize = 4096;
const MAX_CHALLENGES: usize = 8;

impl Refused {
    /// Reads the head of the response.
    pub(super) fn head(address: Address, status: StatusCode, headers: &HeaderMap) -> Self {
        let values = |name: HeaderName| headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        // A realm for people may be in any language, also in one that is not UTF-8.
        let challenges = headers.get_all(header::WWW_AUTHENTICATE).iter().take(MAX_CHALLENGES);
        let challenges = challenges.map(|value| {
            let value = String::from_utf8_lossy(value.as_bytes());
            value.chars().take(MAX_VALUE).collect()
        });
        // A server's times are by its own clock.
        let now = values(header::DATE).next().and_then(|date| httpdate::parse_http_date(date).ok());
        let now = now.unwrap_or_else(SystemTime::now);
        Self {
            address,
            code: status.as_u16(),
            status: status.to_string(),
            excerpt: String::new(),
            challenges: challenges.collect(),
            retry_after: values(header::RETRY_AFTER).next().and_then(|text| pause(text, now)),
        }
    }

    /// Sets the excerpt from the bytes of the page received so far.
    pub(super) fn page(&mut self, bytes: &[u8]) {
        let words = String::from_utf8_lossy(bytes).split_whitespace().collect::<Vec<_>>().join(" ");
        self.excerpt = words.chars().take(SHOWN).collect();
    }
}

/// Parses `Retry-After`: seconds, or a time to wait until.
fn pause(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    // A time that has passed is ignored: the usual pause applies.
    until.duration_since(now).ok().filter(|pause| !pause.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_to_come_again_is_said_in_seconds_or_as_a_time() {
        for (date, text, pause) in [
            (None, "7", Some(7)),
            (Some("Sun, 06 Nov 1994 08:49:37 GMT"), " 7 ", Some(7)),
            (Some("Sun, 06 Nov 1994 08:49:37 GMT"), "Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            (Some("Sun, 06 Nov 1994 08:49:37 GMT"), "Sunday, 06-Nov-94 08:50:07 GMT", Some(30)),
            (Some("Sun, 06 Nov 1994 08:49:37 GMT"), "Sun, 06 Nov 1994 08:49:07 GMT", None),
            (Some("Sun, 06 Nov 1994 08:49:37 GMT"), "Sun, 06 Nov 1994 08:49:37 GMT", None),
            (None, "Sun, 06 Nov 1994 08:50:07 GMT", None),
            (None, "tomorrow", None),
            (None, "-1", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, text.parse().unwrap());
            if let Some(date) = date {
                headers.insert(header::DATE, date.parse().unwrap());
            }
            let address = "http://127.0.0.1/".parse().unwrap();
            let refused = Refused::head(address, StatusCode::SERVICE_UNAVAILABLE, &headers);
            assert_eq!(refused.retry_after, pause.map(Duration::from_secs), "{date:?} {text}");
        }
    }
}
