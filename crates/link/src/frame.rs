//! The yamux frame header: its encoding on the wire, without its semantics.
//!
//! <https://github.com/hashicorp/yamux/blob/master/spec.md>

/// Size of a header, in bytes.
pub(crate) const HEADER: usize = 12;
/// Largest payload that either end puts into one frame, in bytes. A reader that was cut off in the middle of a frame (a
/// restored guest) must be fed this much before it expects a header again, so it is small.
pub(crate) const MAX_PAYLOAD: usize = 16 << 10;
/// Receive window of a stream: bytes that may be sent to one end and not yet read. It never grows; yamux fixes the
/// initial value.
pub const WINDOW: usize = 256 << 10;

/// Type of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `length` bytes of the stream follow.
    Data,
    /// The sender accepts `length` more bytes of the stream.
    Window,
    /// `length` is to be sent back with [`flag::ACK`].
    Ping,
    /// The session ends.
    GoAway,
}

/// Bits of [`Header::flags`].
pub(crate) mod flag {
    /// Opens the stream.
    pub(crate) const SYN: u16 = 1;
    /// First frame of the end that did not open the stream; or the answer to a ping.
    pub(crate) const ACK: u16 = 2;
    /// The sender will not write any more.
    pub(crate) const FIN: u16 = 4;
    /// The stream is closed in both directions.
    pub(crate) const RST: u16 = 8;
}

/// One frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) flags: u16,
    pub(crate) stream: u32,
    pub(crate) length: u32,
}

impl Header {
    /// Encodes the header for the wire.
    pub(crate) fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[1] = match self.kind {
            Kind::Data => 0,
            Kind::Window => 1,
            Kind::Ping => 2,
            Kind::GoAway => 3,
        };
        bytes[2..4].copy_from_slice(&self.flags.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.stream.to_be_bytes());
        bytes[8..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// Decodes a header; `None` if the bytes are no header of this version.
    pub(crate) fn decode(bytes: [u8; HEADER]) -> Option<Self> {
        let [version, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3] = bytes;
        let kind = match (version, kind) {
            (0, 0) => Kind::Data,
            (0, 1) => Kind::Window,
            (0, 2) => Kind::Ping,
            (0, 3) => Kind::GoAway,
            _ => return None,
        };
        Some(Self {
            kind,
            flags: u16::from_be_bytes([f0, f1]),
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_twelve_bytes_decode_to_what_encodes_to_them(bytes: [u8; HEADER]) {
            if let Some(header) = Header::decode(bytes) {
                prop_assert_eq!(header.encode(), bytes);
            } else {
                prop_assert!(bytes[0] != 0 || bytes[1] > 3);
            }
        }
    }
}
