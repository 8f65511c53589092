//! Public and private IPv4 addresses.

use super::Cidr;
use std::net::Ipv4Addr;

/// Blocks a guest reaches only where a rule opens them: private, link-local, shared, test, multicast, reserved.
pub const CLOSED: [Cidr; 14] = [
    block(0, 0, 8),
    PRIVATE[0],
    PRIVATE[3],
    block(127, 0, 8),
    block(169, 254, 16),
    PRIVATE[1],
    exact(192, 0, 0, 24),
    exact(192, 0, 2, 24),
    exact(192, 88, 99, 24),
    PRIVATE[2],
    block(198, 18, 15),
    exact(198, 51, 100, 24),
    exact(203, 0, 113, 24),
    block(224, 0, 3),
];

/// Private blocks, from which networks may be cut.
pub const PRIVATE: [Cidr; 4] = [block(10, 0, 8), block(172, 16, 12), block(192, 168, 16), block(100, 64, 10)];

const fn block(a: u8, b: u8, prefix: u8) -> Cidr {
    exact(a, b, 0, prefix)
}

const fn exact(a: u8, b: u8, c: u8, prefix: u8) -> Cidr {
    match Cidr::new(Ipv4Addr::new(a, b, c, 0), prefix) {
        Some(block) => block,
        None => panic!("a block begins where it begins"),
    }
}

/// Whether an address is on the public internet.
pub fn is_public(address: Ipv4Addr) -> bool {
    !CLOSED.iter().any(|block| block.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_private_is_not_public() {
        for text in [
            "10.0.0.1",
            "169.254.169.254",
            "192.168.1.1",
            "172.31.0.1",
            "127.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
        for text in ["1.1.1.1", "172.32.0.1", "192.167.0.1", "100.63.0.1", "100.128.0.1", "223.255.255.255"] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }
}
