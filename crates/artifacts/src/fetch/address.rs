//! Addresses that may be downloaded from.
//!
//! `https://` anywhere, `http://` only on this host, never with a user name and password. The same rule holds for every
//! redirect, which in addition never leads from `https://` to `http://`.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};
use ureq::http::{Uri, uri::Scheme};

/// Longest address in bytes: addresses with a signature or a policy have thousands of bytes.
const MAX_LENGTH: usize = 16 << 10;

/// Upper bound of the characters of a path that are shown: one with a digest is shorter.
const MAX_SHOWN: usize = 400;

/// Address that may be requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    // Shared: errors carry addresses, and a Uri is large.
    uri: Arc<Uri>,
}

/// Reason why an address is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It is not a complete URL.
    #[error("it is not a URL")]
    Malformed,
    /// Its scheme is neither `https` nor `http`.
    #[error("it is neither https:// nor http://")]
    Scheme,
    /// It is plain text over a network.
    #[error("http:// is for loopback addresses only (127.0.0.1, [::1], localhost)")]
    Plain,
    /// It contains a user name.
    #[error("it has a user name or password in it")]
    Credentials,
    /// It is a redirect from `https://` to `http://`.
    #[error("it leads from https:// to http://")]
    Downgrade,
    /// Another host leads to this one.
    #[error("another host has no say in what this one is asked")]
    Home,
    /// It is a redirect of a posted form, which would be posted again.
    #[error("what was posted is for the one address it was posted to")]
    Posted,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() || text.len() > MAX_LENGTH || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(AddressError::Malformed);
        }
        let uri: Uri = text.parse().map_err(|_| AddressError::Malformed)?;
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return Err(AddressError::Malformed);
        };
        if authority.as_str().contains('@') {
            return Err(AddressError::Credentials);
        }
        if authority.host().is_empty() {
            return Err(AddressError::Malformed);
        }
        match scheme {
            scheme if *scheme == Scheme::HTTPS => Ok(Self { uri: Arc::new(uri) }),
            scheme if *scheme != Scheme::HTTP => Err(AddressError::Scheme),
            _ if is_loopback(authority.host()) => Ok(Self { uri: Arc::new(uri) }),
            _ => Err(AddressError::Plain),
        }
    }
}

impl Address {
    /// Whether the connection is encrypted.
    pub(crate) fn is_https(&self) -> bool {
        self.uri.scheme() == Some(&Scheme::HTTPS)
    }

    /// Whether it is an address of this host.
    pub(super) fn is_loopback(&self) -> bool {
        self.uri.host().is_some_and(is_loopback)
    }

    /// Returns `host` or `host:port`, for messages.
    pub fn host(&self) -> &str {
        self.uri.authority().map_or("", |authority| authority.as_str())
    }

    /// Whether both have the same scheme, host and port.
    pub(crate) fn same_host(&self, other: &Self) -> bool {
        let port = |address: &Self| address.uri.port_u16().unwrap_or(if address.is_https() { 443 } else { 80 });
        self.uri.scheme() == other.uri.scheme() && self.same_name(other) && port(self) == port(other)
    }

    /// Whether both have the same host and port, or no port, whatever the scheme.
    pub(crate) fn same_authority(&self, other: &Self) -> bool {
        self.same_host(other) || self.host().eq_ignore_ascii_case(other.host())
    }

    /// Returns it for messages: not the query, which is long or has a signature in it that gives access.
    pub(super) fn shown(&self) -> impl fmt::Display + use<> {
        let path: String = self.uri.path().chars().take(MAX_SHOWN).collect();
        let query = if self.uri.query().is_some() { "?\u{2026}" } else { "" };
        format!("{}://{}{path}{query}", self.uri.scheme_str().unwrap_or_default(), self.host())
    }

    /// Returns the same address with `https://`.
    pub(crate) fn by_tls(&self) -> Self {
        if self.is_https() {
            return self.clone();
        }
        let mut parts = self.uri.as_ref().clone().into_parts();
        parts.scheme = Some(Scheme::HTTPS);
        Self { uri: Arc::new(Uri::from_parts(parts).expect("only the scheme changed")) }
    }

    /// Whether both have the same host name, which is what a certificate is about, on any port.
    pub(crate) fn same_name(&self, other: &Self) -> bool {
        let name = |address: &Self| address.uri.host().unwrap_or_default().to_ascii_lowercase();
        name(self) == name(other)
    }

    pub(super) fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Returns the target of a redirect to `location`.
    pub(super) fn redirected(&self, location: &str) -> Result<Self, AddressError> {
        let location = location.split('#').next().unwrap_or_default();
        let scheme = self.uri.scheme_str().unwrap_or_default();
        let path = self.uri.path();
        let target = if location.is_empty() {
            return Err(AddressError::Malformed);
        } else if location.starts_with("//") {
            format!("{scheme}:{location}")
        } else if location.starts_with('/') {
            format!("{scheme}://{}{location}", self.host())
        } else if location.starts_with('?') {
            format!("{scheme}://{}{path}{location}", self.host())
        } else if location.split(['/', '?']).next().is_some_and(|first| first.contains(':')) {
            location.to_owned()
        } else {
            let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
            let (below, query) = location.find('?').map_or((location, ""), |at| location.split_at(at));
            format!("{scheme}://{}{}{query}", self.host(), without_dots(&format!("{directory}/{below}")))
        };
        self.leads_to(target.parse()?)
    }

    /// Returns `target`, if whoever answers at this address may name it: nobody leads from TLS to plain text, and no
    /// other host to the services of this one.
    pub(crate) fn leads_to(&self, target: Self) -> Result<Self, AddressError> {
        if self.is_https() && !target.is_https() {
            return Err(AddressError::Downgrade);
        }
        if target.is_loopback() && !self.is_loopback() {
            return Err(AddressError::Home);
        }
        Ok(target)
    }
}

/// Resolves `.` and `..` in a path, after RFC 3986, section 5.2.4.
fn without_dots(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let mut all = path.split('/').skip(1).peekable();
    while let Some(part) = all.next() {
        match part {
            "." | ".." => {
                if part == ".." {
                    parts.pop();
                }
                if all.peek().is_none() {
                    parts.push("");
                }
            }
            other => parts.push(other),
        }
    }
    format!("/{}", parts.join("/"))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

fn is_loopback(host: &str) -> bool {
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    literal.eq_ignore_ascii_case("localhost") || literal.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn https_anywhere_and_http_at_home() {
        for good in [
            "https://example.org/a/b.tar.zst?x=1",
            "https://127.0.0.1:8443/",
            "http://127.0.0.1:8000/x",
            "http://127.9.9.9/x",
            "http://[::1]:80/x",
            "http://localhost/x",
            "HTTP://LOCALHOST/x",
        ] {
            address(good);
        }
        for (bad, why) in [
            ("", AddressError::Malformed),
            ("/x", AddressError::Malformed),
            ("example.org/x", AddressError::Malformed),
            ("https:///x", AddressError::Malformed),
            ("https://exa mple.org/x", AddressError::Malformed),
            ("https://example.org/\u{e4}", AddressError::Malformed),
            ("ftp://127.0.0.1/x", AddressError::Scheme),
            ("file://localhost/etc/passwd", AddressError::Scheme),
            ("http://example.org/x", AddressError::Plain),
            ("http://10.0.0.1/x", AddressError::Plain),
            ("http://127.0.0.1.example.org/x", AddressError::Plain),
            ("http://localhost.example.org/x", AddressError::Plain),
            ("http://0x7f000001/x", AddressError::Plain),
            ("http://[::ffff:127.0.0.1]/x", AddressError::Plain),
            ("https://me:secret@example.org/x", AddressError::Credentials),
            ("http://127.0.0.1@example.org/x", AddressError::Credentials),
        ] {
            assert_eq!(bad.parse::<Address>(), Err(why), "{bad}");
        }
        let long = |of: usize| format!("https://example.org/{}", "x".repeat(of - 20)).parse::<Address>();
        assert!(long(16 << 10).is_ok() && long((16 << 10) + 1).is_err());
    }

    #[test]
    fn redirects_are_resolved_and_obey_the_rule() {
        let from = address("https://example.org/a/b?c#d");
        for (location, to) in [
            ("https://other.example.org/x#part", "https://other.example.org/x"),
            ("//other.example.org/x", "https://other.example.org/x"),
            ("/x", "https://example.org/x"),
            ("x", "https://example.org/a/x"),
            ("x?a:b", "https://example.org/a/x?a:b"),
            ("?y", "https://example.org/a/b?y"),
            ("../x?../y", "https://example.org/x?../y"),
            ("./x", "https://example.org/a/x"),
            ("../../../x/./y/..", "https://example.org/x/"),
            ("..", "https://example.org/"),
            (".", "https://example.org/a/"),
            ("..x/...", "https://example.org/a/..x/..."),
        ] {
            assert_eq!(from.redirected(location).map(|to| to.to_string()), Ok(to.to_owned()), "{location}");
        }
        assert_eq!(from.redirected("http://127.0.0.1/x"), Err(AddressError::Downgrade));
        assert_eq!(from.redirected("http://example.org/x"), Err(AddressError::Plain));
        for home in ["https://127.0.0.1:8443/x", "https://localhost/x", "//[::1]/x"] {
            assert_eq!(from.redirected(home), Err(AddressError::Home), "{home}");
        }
        assert_eq!(from.redirected("javascript:alert(1)"), Err(AddressError::Malformed));
        assert_eq!(from.redirected("https://a@b/"), Err(AddressError::Credentials));
        assert_eq!(from.redirected("#x"), Err(AddressError::Malformed));
        let home = address("http://127.0.0.1:1/x");
        assert_eq!(home.redirected("//example.org/x"), Err(AddressError::Plain));
        assert!(home.redirected("https://example.org/x").is_ok());
        assert!(home.redirected("http://localhost:2/x").is_ok());
    }

    #[test]
    fn what_gives_access_is_not_shown() {
        let signed = address(&format!("https://store.example.org/blobs/{}?X-Signature=secret", "x".repeat(1000)));
        let shown = signed.shown().to_string();
        assert!(shown.starts_with("https://store.example.org/blobs/xxx") && shown.ends_with("x?\u{2026}"), "{shown}");
        assert!(shown.len() < 500 && !shown.contains("secret"), "{shown}");
        assert_eq!(address("https://a.org").shown().to_string(), "https://a.org/");
    }

    #[test]
    fn who_is_the_same() {
        let asked = address("https://reg.example.org:5000/v2/");
        for (other, host, name) in [
            ("https://REG.example.org:5000/t", true, true),
            ("https://reg.example.org/t", false, true),
            ("https://reg.example.org.evil.org:5000/", false, false),
            ("https://example.org:5000/", false, false),
        ] {
            let other = address(other);
            assert_eq!((asked.same_host(&other), asked.same_name(&other)), (host, name), "{other}");
        }
        assert!(address("https://a.org/").same_host(&address("https://A.org:443/")));
        assert!(address("http://127.0.0.1:80/").same_host(&address("http://127.0.0.1/")));
        assert!(!address("https://127.0.0.1:80/").same_authority(&address("https://127.0.0.1/")));
        assert!(address("https://localhost/").same_authority(&address("http://localhost/")));
        let plain = address("http://127.0.0.1:1/x?y");
        assert!(!address("https://127.0.0.1:1/").same_host(&plain));
        assert!(address("https://127.0.0.1:1/").same_authority(&plain));
        assert_eq!(plain.by_tls().to_string(), "https://127.0.0.1:1/x?y");
        assert_eq!(asked.by_tls(), asked);
    }
}
