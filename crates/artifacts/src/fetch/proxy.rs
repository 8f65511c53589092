//! Proxies, as curl and Go read them from the environment.
//!
//! `https_proxy`, else `HTTPS_PROXY`, else `all_proxy`, else `ALL_PROXY` is the proxy of `https://` addresses; an empty
//! variable is none. `http://` goes to this host only, which is never asked through a proxy, so `http_proxy` counts for
//! nothing here. `no_proxy`, else `NO_PROXY`, lists who is asked directly.

use super::{Address, FetchError};
use std::{ffi::OsString, fmt, net::IpAddr};
use ureq::{ProxyProtocol, http::Uri};

/// Variables with the proxy of `https://` addresses; the first that is not empty counts.
const PROXY: [&str; 4] = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
/// Variables with the exceptions; the first that is not empty counts.
const EXCEPTIONS: [&str; 2] = ["no_proxy", "NO_PROXY"];
/// Port of an `https://` address without one.
const HTTPS: u16 = 443;

/// Proxies of an environment.
#[derive(Clone, Default)]
pub struct Proxies {
    proxy: Option<Result<Proxy, Malformed>>,
    exceptions: Vec<Exception>,
}

/// A proxy, with the login it wants.
#[derive(Clone)]
pub(super) struct Proxy {
    /// `host:port`.
    pub(super) host: String,
    /// Variable that names it.
    pub(super) variable: &'static str,
    pub(super) inner: ureq::Proxy,
}

/// Variable that names no proxy. Its value may have a password in it and is not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Malformed {
    variable: &'static str,
    why: &'static str,
}

/// Whom to ask without the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    Everybody,
    /// Addresses with the same first bits.
    Network(IpAddr, u8),
    Address(IpAddr, Option<u16>),
    /// A name and all below it, or only those below it.
    Domain {
        name: String,
        only_below: bool,
        port: Option<u16>,
    },
}

impl Proxies {
    /// Reads an environment.
    pub fn in_environment(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let first = |names: &[&'static str]| {
            let set = names.iter().map(|name| (*name, variable(name)));
            set.filter_map(|(name, value)| Some((name, value?))).find(|(_, value)| !value.is_empty())
        };
        let proxy = first(&PROXY).map(|(variable, value)| {
            let value = value.into_string().map_err(|_| "it is not UTF-8");
            value.and_then(|value| Proxy::parse(variable, value.trim())).map_err(|why| Malformed { variable, why })
        });
        let exceptions = first(&EXCEPTIONS).map(|(_, list)| {
            let list = list.to_string_lossy().into_owned();
            list.split([',', ' ']).filter_map(Exception::parse).collect()
        });
        Self { proxy, exceptions: exceptions.unwrap_or_default() }
    }

    /// Returns the proxy to ask `address` through, if there is one.
    pub(super) fn of(&self, address: &Address) -> Result<Option<&Proxy>, FetchError> {
        // A proxy's loopback address is another host's.
        if address.is_loopback() || !address.is_https() {
            return Ok(None);
        }
        let (host, port) = (bare(address.uri().host().unwrap_or_default()), address.uri().port_u16().unwrap_or(HTTPS));
        match &self.proxy {
            Some(_) if self.exceptions.iter().any(|one| one.fits(&host, port)) => Ok(None),
            None => Ok(None),
            Some(Ok(proxy)) => Ok(Some(proxy)),
            Some(Err(Malformed { variable, why })) => Err(FetchError::ProxySetting { variable, why }),
        }
    }
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proxy = self.proxy.as_ref().map(|proxy| proxy.as_ref().map(|proxy| &proxy.host));
        f.debug_struct("Proxies").field("proxy", &proxy).field("exceptions", &self.exceptions).finish()
    }
}

impl Proxy {
    /// Parses `[SCHEME://][USER[:PASSWORD]@]HOST[:PORT][/]`.
    fn parse(variable: &'static str, text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let scheme = scheme.to_ascii_lowercase();
        let (protocol, usual) = match scheme.as_str() {
            "http" => (ProxyProtocol::Http, 80),
            "https" => (ProxyProtocol::Https, HTTPS),
            socks if socks.starts_with("socks") => return Err("SOCKS is not spoken here; http:// and https:// are"),
            _ => return Err("its scheme is neither http nor https"),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (login, place) = match authority.rsplit_once('@') {
            Some((login, place)) => (Some(login), place),
            None => (None, authority),
        };
        let uri: Uri = format!("http://{place}/").parse().map_err(|_| "it has no host, or a malformed one")?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or("it has no host")?;
        let port = match uri.port() {
            None if place.ends_with(':') || place.len() == host.len() => usual,
            Some(port) if port.as_u16() != 0 => port.as_u16(),
            _ => return Err("its port is no port"),
        };
        let mut builder = ureq::Proxy::builder(protocol).host(host).port(port);
        if let Some(login) = login {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            let decode = |text| decoded(text).ok_or("its user name or password is not encoded as in a URL");
            builder = builder.username(&decode(user)?).password(&decode(password)?);
        }
        let inner = builder.build().map_err(|_| "it is no URL of a host")?;
        Ok(Self { host: format!("{host}:{port}"), variable, inner })
    }
}

impl Exception {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        if text.is_empty() {
            return None;
        }
        if text == "*" {
            return Some(Self::Everybody);
        }
        if let Some((address, bits)) = text.split_once('/') {
            let (address, bits) = (address.parse().ok()?, bits.parse().ok()?);
            return (bits <= width(address)).then_some(Self::Network(address, bits));
        }
        if let Ok(address) = bare(&text).parse() {
            return Some(Self::Address(address, None));
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, Some(port.parse().ok()?)),
            None => (text.as_str(), None),
        };
        if let Ok(address) = bare(name).parse() {
            return Some(Self::Address(address, port));
        }
        let name = name.strip_prefix('*').unwrap_or(name);
        let (name, only_below) = (name.trim_matches('.'), name.starts_with('.'));
        (!name.is_empty()).then(|| Self::Domain { name: name.to_owned(), only_below, port })
    }

    /// Whether this host, which is a name or an address without brackets, is one of them.
    fn fits(&self, host: &str, port: u16) -> bool {
        let is = |address: &IpAddr| host.parse() == Ok(*address);
        match self {
            Self::Everybody => true,
            Self::Network(network, bits) => {
                host.parse().is_ok_and(|address: IpAddr| first(address, *bits) == first(*network, *bits))
            }
            Self::Address(address, only) => is(address) && only.is_none_or(|only| only == port),
            Self::Domain { name, only_below, port: only } => {
                let below = host.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.'));
                (below || (!only_below && host == name)) && only.is_none_or(|only| only == port)
            }
        }
    }
}

/// A host in lower case, without the brackets of an IPv6 address and without the dot of a complete name.
fn bare(host: &str) -> String {
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    literal.strip_suffix('.').unwrap_or(literal).to_ascii_lowercase()
}

/// The kind and the first bits of an address.
fn first(address: IpAddr, bits: u8) -> (u8, u128) {
    let width = width(address);
    let number = match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    (width, number.checked_shr(u32::from(width.saturating_sub(bits))).unwrap_or_default())
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Decodes `%XX`.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::in_environment(|name| {
            variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| value.into())
        })
    }

    /// Proxy of `https://reg.example/`: its host, or what is wrong with it.
    fn of(variables: &[(&str, &str)]) -> Result<Option<String>, String> {
        let address = "https://reg.example/".parse().unwrap();
        let proxies = proxies(variables);
        let proxy = proxies.of(&address).map(|proxy| proxy.map(|proxy| proxy.host.clone()));
        proxy.map_err(|error| error.to_string())
    }

    #[test]
    fn the_first_variable_that_says_something_counts() {
        let all = [
            ("https_proxy", "a"),
            ("HTTPS_PROXY", "b"),
            ("all_proxy", "c"),
            ("ALL_PROXY", "d"),
            ("http_proxy", "e"),
            ("HTTP_PROXY", "f"),
        ];
        for (from, host) in [(0, Some("a")), (1, Some("b")), (2, Some("c")), (3, Some("d")), (4, None)] {
            assert_eq!(of(&all[from..]), Ok(host.map(|host| format!("{host}:80"))));
        }
        assert_eq!(of(&[("https_proxy", ""), ("HTTPS_PROXY", "b")]), Ok(Some("b:80".into())));
        assert_eq!(of(&[("https_proxy", "a"), ("no_proxy", ""), ("NO_PROXY", "*")]), Ok(None));
        assert_eq!(of(&[("https_proxy", "a"), ("no_proxy", "x"), ("NO_PROXY", "*")]), Ok(Some("a:80".into())));
    }

    #[test]
    fn what_names_a_proxy() {
        for (text, host) in [
            ("proxy.example:3128", "proxy.example:3128"),
            ("http://proxy.example", "proxy.example:80"),
            ("HTTPS://proxy.example/", "proxy.example:443"),
            (" http://[::1]:3128/x?y ", "[::1]:3128"),
            ("http://me:p%40ss%3aw@proxy.example:3128", "proxy.example:3128"),
            ("me@proxy.example:", "proxy.example:80"),
        ] {
            assert_eq!(of(&[("HTTPS_PROXY", text)]), Ok(Some(host.to_owned())), "{text}");
        }
        for text in [
            "http://",
            "http://me:secret@",
            "http://secret:99999",
            "http://a:secret",
            "http://a:0",
            "socks5://me:secret@a",
            "ftp://me:secret@a",
            "http://me:secret%4@a",
            "http://me:secret%zz@a",
            "http://me:secret%ff@a",
            "http://a secret",
        ] {
            let error = of(&[("HTTPS_PROXY", text)]).unwrap_err();
            assert!(error.starts_with("HTTPS_PROXY ") && !error.contains("secret"), "{text}: {error}");
        }
    }

    #[test]
    fn a_login_is_decoded_and_not_shown() {
        let proxies = proxies(&[("https_proxy", "http://m%65:p%40s%3A+%20@proxy.example:3128")]);
        let address = "https://reg.example/".parse().unwrap();
        let proxy = &proxies.of(&address).unwrap().unwrap().inner;
        assert_eq!((proxy.username(), proxy.password()), (Some("me"), Some("p@s:+ ")));
        let shown = format!("{proxies:?}");
        assert!(shown.contains("proxy.example:3128") && !shown.contains("p@s") && !shown.contains("p%40"), "{shown}");
    }

    #[test]
    fn exceptions() {
        let direct = |list: &str, address: &str| {
            let proxies = proxies(&[("https_proxy", "proxy.example"), ("no_proxy", list)]);
            proxies.of(&address.parse().unwrap()).unwrap().is_none()
        };
        for (list, address, is) in [
            ("*", "https://reg.example/", true),
            ("reg.example", "https://reg.example/", true),
            ("reg.example", "https://REG.example./", true),
            ("REG.example.", "https://a.reg.example/", true),
            ("reg.example", "https://areg.example/", false),
            ("reg.example", "https://reg.example.org/", false),
            (".reg.example", "https://a.reg.example/", true),
            ("*.reg.example", "https://b.a.reg.example/", true),
            (".reg.example", "https://reg.example/", false),
            ("x, reg.example:5000 ,y", "https://reg.example:5000/", true),
            ("reg.example:5000", "https://reg.example/", false),
            ("reg.example:443", "https://reg.example/", true),
            ("a b reg.example", "https://reg.example/", true),
            ("10.0.0.1", "https://10.0.0.1/", true),
            ("10.0.0.1", "https://10.0.0.11/", false),
            ("10.0.0.1:5000", "https://10.0.0.1:5000/", true),
            ("10.0.0.1:5000", "https://10.0.0.1/", false),
            ("10.0.0.0/8", "https://10.255.0.1/", true),
            ("10.0.0.0/8", "https://11.0.0.1/", false),
            ("10.0.0.0/8", "https://ten.example/", false),
            ("0.0.0.0/0", "https://11.0.0.1/", true),
            ("0.0.0.0/0", "https://[2001:db8::1]/", false),
            ("2001:db8::/32", "https://[2001:db8:1::1]/", true),
            ("2001:db8::1", "https://[2001:db8::1]:5000/", true),
            ("[2001:db8::1]:5000", "https://[2001:db8::1]:5000/", true),
            ("[2001:db8::1]:5000", "https://[2001:db8::1]/", false),
            ("2001:db8::/129, 10.0.0.0/33, x:y, ., ,/", "https://10.0.0.1/", false),
            // This host is never asked through another.
            ("", "https://127.0.0.1/", true),
            ("", "https://localhost:5000/", true),
            ("", "http://127.0.0.1/", true),
            ("", "https://reg.example/", false),
        ] {
            assert_eq!(direct(list, address), is, "{list}: {address}");
        }
    }

    #[test]
    fn a_setting_that_is_not_needed_does_no_harm() {
        let address = "https://reg.example/".parse().unwrap();
        assert!(proxies(&[("HTTPS_PROXY", "ftp://x"), ("NO_PROXY", "reg.example")]).of(&address).unwrap().is_none());
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]
        #[test]
        fn any_setting_is_read(proxy: String, list: String) {
            let _ = of(&[("https_proxy", &proxy), ("no_proxy", &list)]);
        }
    }
}
