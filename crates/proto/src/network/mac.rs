//! Hardware address of a NIC.

use super::{InvalidNetwork, as_text};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Hardware (MAC) address of a NIC; as text `02:62:0a:d5:00:05`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr(pub [u8; 6]);

as_text!(MacAddr);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.map(|byte| format!("{byte:02x}")).join(":");
        f.pad(&text)
    }
}

impl FromStr for MacAddr {
    type Err = InvalidNetwork;
    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let byte = |part: &str| {
            let plain = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            u8::from_str_radix(part, 16).ok().filter(|_| plain)
        };
        let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(Self)
            .ok_or_else(|| InvalidNetwork::new("hardware address", text, "write six bytes such as 02:62:0a:d5:00:05"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_read_and_written() {
        let address: MacAddr = "02:62:0a:d5:00:05".parse().unwrap();
        assert_eq!((address, address.to_string().as_str()), (MacAddr([2, 0x62, 10, 0xd5, 0, 5]), "02:62:0a:d5:00:05"));
        assert_eq!(serde_json::to_string(&address).unwrap(), "\"02:62:0a:d5:00:05\"");
        for bad in
            ["", "02:62:0a:d5:00", "02:62:0a:d5:00:05:06", "2:62:0a:d5:00:05", "02:62:0a:d5:00:0g", "+2:62:0a:d5:00:05"]
        {
            bad.parse::<MacAddr>().expect_err(bad);
        }
    }
}
