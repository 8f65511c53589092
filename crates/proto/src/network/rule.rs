//! Egress rule of a VM: a destination, and optionally a port.

use super::{Cidr, InvalidNetwork, as_text};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Domain name, or `*.` and one for everything below it. Lower case, without a final dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(String);

as_text!(Domain);

impl Domain {
    /// The domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the domain covers a name (lower case, without a final dot).
    pub fn matches(&self, name: &str) -> bool {
        match self.0.strip_prefix("*.") {
            Some(parent) => name.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.') && rest.len() > 1),
            None => name == self.0,
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Domain {
    type Err = InvalidNetwork;
    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        // The last label of a name has a letter; `10.0.0` is an address that somebody mistyped.
        let last_is_name = name.rsplit('.').next().is_some_and(|last| !last.bytes().all(|byte| byte.is_ascii_digit()));
        if name.len() <= 253 && name.split('.').all(is_label) && last_is_name {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(InvalidNetwork::new("domain", text, "write a name such as example.com or *.example.com"))
        }
    }
}

/// Destination of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Destination {
    /// Block of addresses.
    Block(Cidr),
    /// Addresses a name resolves to, while the answer is valid.
    Domain(Domain),
}

/// A destination, with a port or with all of them: `10.0.0.0/8`, `10.0.0.5:5432`, `example.com`, `*.example.com:443`.
/// A port means TCP and UDP.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rule {
    /// Destination.
    pub to: Destination,
    /// Port; `None` is every port and every protocol.
    pub port: Option<u16>,
}

as_text!(Rule);

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.to {
            Destination::Block(block) => block.fmt(f)?,
            Destination::Domain(domain) => f.write_str(domain.as_str())?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl FromStr for Rule {
    type Err = InvalidNetwork;
    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        if text == "none" {
            // In a list of rules `none` means an empty list.
            return Err(InvalidNetwork::new("destination", text, "it is no name of a host"));
        }
        let (to, port) = match text.rsplit_once(':') {
            Some((to, port)) => {
                let plain = port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
                let port = port.parse().ok().filter(|port| plain && *port > 0);
                let rule = "write HOST:PORT, ADDRESS/PREFIX or a domain; a port is 1 to 65535";
                (to, Some(port.ok_or_else(|| InvalidNetwork::new("destination", text, rule))?))
            }
            None => (text, None),
        };
        let is_address = to.bytes().next().is_some_and(|byte| byte.is_ascii_digit())
            && to.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b'/');
        let to = if is_address { Destination::Block(to.parse()?) } else { Destination::Domain(to.parse()?) };
        Ok(Self { to, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_and_written() {
        for text in
            ["10.0.0.0/8", "10.0.0.5:5432", "192.168.0.0/16:443", "example.com", "*.example.com:443", "1and1.com"]
        {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
        }
        for text in [
            "",
            ":80",
            "10.0.0.5:0",
            "10.0.0.5:+80",
            "10.0.0.5:65536",
            "a b",
            "*",
            "*.",
            "x..y",
            "10.0.0",
            "::1",
            "-x.y",
            "a;b.c",
            "x.y\n",
            "none",
        ] {
            text.parse::<Rule>().expect_err(text);
        }
        assert_eq!("Example.COM".parse::<Rule>().unwrap().to_string(), "example.com");
    }

    #[test]
    fn a_star_is_everything_below_and_not_the_name_itself() {
        let below: Domain = "*.example.com".parse().unwrap();
        assert!(below.matches("a.example.com") && below.matches("a.b.example.com"));
        for other in ["example.com", "badexample.com", ".example.com", "example.com.evil"] {
            assert!(!below.matches(other), "{other}");
        }
        let name: Domain = "example.com".parse().unwrap();
        assert!(name.matches("example.com") && !name.matches("a.example.com"));
    }
}
