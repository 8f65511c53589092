//! Published port: a port of the guest on an address of the host.

use super::{InvalidNetwork, as_text};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
    str::FromStr,
};

/// `[ADDRESS:]HOST:GUEST[/tcp]`: TCP connections to a port of the host go to a port of the guest. Port 0 of the host is
/// one that is free; without an address it is 127.0.0.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Publish {
    /// Address and port the host listens on.
    pub host: SocketAddrV4,
    /// Port of the guest.
    pub guest: u16,
}

as_text!(Publish);

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.guest)
    }
}

impl FromStr for Publish {
    type Err = InvalidNetwork;
    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let invalid = |rule| InvalidNetwork::new("published port", text, rule);
        let number = |port: &str| {
            let plain = (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
            port.parse::<u16>().ok().filter(|_| plain).ok_or_else(|| invalid("a port is a number from 0 to 65535"))
        };
        let plain = match text.rsplit_once('/') {
            Some((plain, "tcp")) => plain,
            Some((_, "udp")) => return Err(invalid("only TCP ports can be published")),
            Some(_) => return Err(invalid("write [ADDRESS:]HOST:GUEST[/tcp]")),
            None => text,
        };
        let mut parts: Vec<&str> = plain.split(':').collect();
        let guest = number(parts.pop().unwrap_or_default())?;
        if guest == 0 {
            return Err(invalid("a guest's port is 1 to 65535"));
        }
        let port = number(parts.pop().ok_or_else(|| invalid("write [ADDRESS:]HOST:GUEST[/tcp]"))?)?;
        let address = match parts[..] {
            [] => Ipv4Addr::LOCALHOST,
            [address] => address.parse().map_err(|_| invalid("the host's address is an IPv4 address"))?,
            _ => return Err(invalid("write [ADDRESS:]HOST:GUEST[/tcp]")),
        };
        Ok(Self { host: SocketAddrV4::new(address, port), guest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_and_written() {
        for (text, written) in
            [("8080:80", "127.0.0.1:8080:80"), ("0:80/tcp", "127.0.0.1:0:80"), ("0.0.0.0:8080:80", "0.0.0.0:8080:80")]
        {
            assert_eq!(text.parse::<Publish>().unwrap().to_string(), written);
            assert_eq!(written.parse::<Publish>().unwrap().to_string(), written);
        }
        for text in
            ["", "80", "8080:0", "8080:80/udp", "8080:80/x", "x:80", "1:2:3:4", "host:1:2", "-1:2", "65536:1", "1:+2"]
        {
            text.parse::<Publish>().expect_err(text);
        }
    }
}
