//! Block of IPv4 addresses.

use super::{InvalidNetwork, as_text};
use serde::{Deserialize, Serialize};
use std::{fmt, net::Ipv4Addr, str::FromStr};

/// Block of IPv4 addresses, such as `10.0.0.0/8`, or one address. Never has bits beyond its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    first: Ipv4Addr,
    prefix: u8,
}

as_text!(Cidr);

impl Cidr {
    /// Block that begins at `first`; `None` when `first` has bits beyond the prefix.
    pub const fn new(first: Ipv4Addr, prefix: u8) -> Option<Self> {
        if prefix > 32 || first.to_bits() & !Self::mask(prefix) != 0 {
            return None;
        }
        Some(Self { first, prefix })
    }

    /// Block of one address.
    pub const fn host(address: Ipv4Addr) -> Self {
        Self { first: address, prefix: 32 }
    }

    const fn mask(prefix: u8) -> u32 {
        if prefix == 0 { 0 } else { u32::MAX << (32 - prefix) }
    }

    /// First address of the block.
    pub fn first(self) -> Ipv4Addr {
        self.first
    }

    /// Prefix length.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether the block contains an address.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & Self::mask(self.prefix) == self.first.to_bits()
    }

    /// Whether the blocks have an address in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }

    /// Address number `n`, counted from the first; `None` beyond the end.
    pub fn nth(self, n: u32) -> Option<Ipv4Addr> {
        let address = Ipv4Addr::from_bits(self.first.to_bits().checked_add(n)?);
        self.contains(address).then_some(address)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prefix == 32 { self.first.fmt(f) } else { write!(f, "{}/{}", self.first, self.prefix) }
    }
}

impl FromStr for Cidr {
    type Err = InvalidNetwork;
    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let invalid = |rule| InvalidNetwork::new("block of addresses", text, rule);
        let (first, prefix) = text.split_once('/').unwrap_or((text, "32"));
        let first = first.parse().map_err(|_| invalid("write an IPv4 address or ADDRESS/PREFIX"))?;
        let plain = prefix.len() <= 2 && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = prefix.parse().ok().filter(|prefix| plain && *prefix <= 32);
        let prefix = prefix.ok_or_else(|| invalid("a prefix is a number from 0 to 32"))?;
        Self::new(first, prefix).ok_or_else(|| invalid("the address has bits beyond its prefix"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_and_written() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "192.168.1.7", "192.168.1.6/31"] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
        }
        for text in ["", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/", "10.0.0/8", "::1", "10.0.0.0/008"] {
            text.parse::<Cidr>().expect_err(text);
        }
        assert_eq!("10.0.0.5/32".parse::<Cidr>().unwrap(), Cidr::host(Ipv4Addr::new(10, 0, 0, 5)));
    }

    #[test]
    fn addresses_are_counted_from_the_first() {
        let block: Cidr = "10.1.0.0/30".parse().unwrap();
        assert_eq!(block.nth(3), Some(Ipv4Addr::new(10, 1, 0, 3)));
        assert_eq!(block.nth(4), None);
        assert_eq!("255.255.255.252/30".parse::<Cidr>().unwrap().nth(u32::MAX), None);
        let parse = |text: &str| text.parse::<Cidr>().unwrap();
        assert!(block.overlaps(parse("10.0.0.0/8")) && parse("0.0.0.0/0").overlaps(block));
        assert!(block.overlaps(parse("10.1.0.3")) && !block.overlaps(parse("10.1.0.4/30")));
        assert!(block.contains(Ipv4Addr::new(10, 1, 0, 2)) && !block.contains(Ipv4Addr::new(10, 1, 0, 4)));
    }
}
